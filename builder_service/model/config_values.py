"""Fields of config.json, one at a time: of the right kind, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from builder_service.model.config_fields import unsupported
from builder_service.model.rope_config import LARGEST

Config = Mapping[str, Any]
T = TypeVar("T")
MOST = 2**31 - 1  # of anything that is counted
MOST_OF = {
    "num_hidden_layers": 1024,
    **dict.fromkeys(("num_attention_heads", "num_kv_heads", "n_heads"), 2**16),
    **dict.fromkeys(("hidden_size", "d_model", "head_dim"), 2**20),
}
"""Of what something is computed for each, before the checkpoint's tensors prove that it has as many."""


def count(config: Config, name: str, default: int | None = None) -> int:
    """A whole number above 0, within reason; absent or null means `default`."""
    most = MOST_OF.get(name, MOST)
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise unsupported(name, f"config.json has {name} = {value!r}; a whole number from 1 to {most} is needed")
    return value


def flag(config: Config, name: str, *, default: bool = False) -> bool:
    """True or false; absent or null means `default`."""
    value = config.get(name)
    if value not in (None, False, True):
        raise unsupported(name, f"config.json has {name} = {value!r}; true or false is needed")
    return default if value is None else bool(value)


def share(config: Config, name: str, default: float) -> float:
    """A number above 0, at most 1; absent or null means `default`."""
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise unsupported(name, f"config.json has {name} = {value!r}; a number above 0, at most 1, is needed")
    return float(value)


def epsilon(config: Config, name: str, default: float) -> float:
    """What keeps a norm from dividing by zero."""
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise unsupported(name, f"config.json has {name} = {value!r}; a number in [0, 1) is needed")
    return float(value)


def number(config: Config, name: str, default: float) -> float:
    """A number above 0, at most LARGEST; absent or null means `default`."""
    found = optional_number(config, name)
    return default if found is None else found


def optional_number(config: Config, name: str) -> float | None:
    """A number above 0, at most LARGEST; absent or null: None."""
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        raise unsupported(
            name, f"config.json has {name} = {value!r:.80}; a number above 0, at most {LARGEST}, is needed"
        )
    return float(value)


def choice(config: Config, name: str, options: Mapping[str, T], default: str) -> T:
    """What one of some words means; absent or null means `default`."""
    value = config.get(name) or default
    if not isinstance(value, str) or value not in options:
        raise unsupported(name, f"config.json has {name} = {value!r:.80}; {', '.join(options)} are computed")
    return options[value]


def head_sizes(config: Config, hidden: int, heads: int, kv_heads: int) -> int:
    """Width of a head; heads must divide evenly."""
    if heads % kv_heads:
        message = f"num_key_value_heads is {kv_heads}, which does not divide num_attention_heads {heads}"
        raise unsupported("num_key_value_heads", message)
    if config.get("head_dim") is None and hidden % heads:
        message = f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
        raise unsupported("head_dim", message)
    head_dim = count(config, "head_dim", hidden // heads)
    if head_dim % 2:
        raise unsupported("head_dim", f"head_dim is {head_dim}; rotation needs an even one")
    return head_dim


def sliding_layers(config: Config, every: int = 1) -> frozenset[int]:
    """Layers with a window of their own: by `layer_types`, or all but each `every`-th."""
    layers, types = count(config, "num_hidden_layers"), config.get("layer_types")
    if types is None:
        return frozenset(layer for layer in range(layers) if (layer + 1) % every)
    known = ("sliding_attention", "full_attention")
    if not isinstance(types, list) or len(types) != layers or any(kind not in known for kind in types):
        message = f"config.json has layer_types = {types!r:.80}; {layers} times {' or '.join(known)} is needed"
        raise unsupported("layer_types", message)
    return frozenset(layer for layer, kind in enumerate(types) if kind == known[0])


def sliding_window(config: Config, *, default: int | None = None) -> int | None:
    """Tokens that a layer with a window of its own lets a token see, itself included; None: all."""
    if config.get("use_sliding_window") is False:
        return None
    return None if config.get("sliding_window", default) is None else count(config, "sliding_window", default)
