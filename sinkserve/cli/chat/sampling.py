"""How replies are sampled, in words, and how `/set` changes it. Prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sinkserve.client import GenerationOptions
from sinkserve.runtime.v1.conversation_service_pb2 import GenerationOptions as Effective

_NUMBERS: Mapping[str, type[int | float]] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
    "speculated_tokens": int,
}
"""What `/set` takes beside `stop`."""
_OFF = {"top_k": 0, "top_p": 1, "min_p": 0}
_PENALTIES = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}


def describe(defaults: Effective, asked: GenerationOptions) -> str:
    """How a turn that asks for `asked` is sampled: greedily, or by temperature and what narrows it; and penalties."""
    values = {name: asked.get(name, getattr(defaults, name)) for name in ("temperature", *_OFF, *_PENALTIES)}
    temperature = values.pop("temperature")
    narrowed = [] if temperature == 0 else [_said(values, name) for name, off in _OFF.items() if values[name] != off]
    penalized = [_said(values, name) for name, off in _PENALTIES.items() if values[name] != off]
    return " · ".join(["greedy" if temperature == 0 else f"temperature {temperature:g}", *narrowed, *penalized])


def changed(options: GenerationOptions, argument: str) -> GenerationOptions:
    """The options after `/set NAME VALUE`; without a value, the default holds again.

    Raises ValueError, with what to type instead.
    """
    name, _, text = argument.partition(" ")
    name, text = name.replace("-", "_"), text.strip()
    if name not in _NUMBERS and name != "stop":
        raise ValueError(f"/set takes one of {', '.join(_NUMBERS)} and stop, such as /set temperature 0.7")
    kept = {key: value for key, value in options.items() if key != name}
    if text:
        kept[name] = [text] if name == "stop" else _number(name, text)
    return cast("GenerationOptions", kept)


def _number(name: str, text: str) -> float:
    try:
        return _NUMBERS[name](text)
    except ValueError:
        kind = "whole number" if _NUMBERS[name] is int else "number"
        raise ValueError(f"/set {name} takes a {kind}, and not {text}") from None


def _said(values: dict[str, object], name: str) -> str:
    return f"{name.replace('_', ' ')} {values[name]:g}"
