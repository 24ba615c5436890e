"""A tokenizer that puts a space before every text, made to leave texts as they are.

Sentencepiece-style tokenizers begin every text with a space that nobody wrote. Behind a template's own text there is
none, so contents that are encoded apart must not get one either; and what is decoded has none to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = dict[str, Any]


def without_prefix_space(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json, parsed, without any space before texts; equal to it where it puts none."""
    return tokenizer | {
        "normalizer": _changed(tokenizer["normalizer"], _normalizer),
        "pre_tokenizer": _changed(tokenizer["pre_tokenizer"], _pre_tokenizer),
        "decoder": _changed(tokenizer["decoder"], _decoder),
    }


def _changed(step: Step | None, change: Callable[[Step], Step | None]) -> Step | None:
    """One step, or every one of a sequence, changed; None: nothing is left of it."""
    if step is None:
        return None
    for parts in ("normalizers", "pretokenizers", "decoders"):
        if parts in step:
            return step | {parts: [kept for part in step[parts] if (kept := _changed(part, change))]}
    return change(step)


def _normalizer(step: Step) -> Step | None:
    return None if step["type"] == "Prepend" else step


def _pre_tokenizer(step: Step) -> Step:
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if step["type"] == "ByteLevel" else step


def _decoder(step: Step) -> Step | None:
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return None if step["type"] == "Strip" and step["content"] == " " and step["start"] else step
