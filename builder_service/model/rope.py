"""Rotary position embedding of a checkpoint, for a cache of a given size.

Types whose frequencies depend on the length of the text (`dynamic`, `longrope`) are fixed by the tokens that the
cache can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from builder_service.model.config_values import MOST
from builder_service.model.rope_config import RopeConfig, unsupported
from builder_service.model.rope_types import FREQUENCIES
from common.spec.manifest import Rope

DEFAULT_THETA = 10_000.0
_FORMERLY = {"su": "longrope"}  # of Phi-3
_COMMON_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}
_COMMON_FIELDS |= {"original_max_position_embeddings"}
_FIELDS: dict[str, set[str]] = {
    "default": set(),
    "linear": set(),
    "dynamic": set(),
    "yarn": {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "longrope": {"attention_factor", "short_factor", "long_factor"},
    "llama3": {"low_freq_factor", "high_freq_factor"},
    "proportional": set(),
}


def rope_fields(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says about rotation, in either spelling."""
    fields = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(fields, dict):
        raise unsupported("", f"rope_parameters is {fields!r}; an object is needed")
    return fields


def read_rope_config(
    config: Mapping[str, Any], rotary_dim: int, max_position: int, *, part: bool = False
) -> RopeConfig:
    """Rotation of the first `rotary_dim` numbers of a head; `part`: the family may leave others as they are.

    Raises InvalidArgument (CONFIG_UNSUPPORTED) naming the field.
    """
    fields = dict(rope_fields(config))
    if config.get("original_max_position_embeddings") is not None:
        fields = fields | {"original_max_position_embeddings": config["original_max_position_embeddings"]}
    kind = str(fields.get("rope_type", fields.get("type", "default")))
    kind = _FORMERLY.get(kind, kind)
    if kind not in FREQUENCIES:
        raise unsupported("rope_type", f"rope_type {kind!r} is not supported; {', '.join(FREQUENCIES)} are")
    if unknown := sorted(set(fields) - _COMMON_FIELDS - _FIELDS[kind]):
        raise unsupported(unknown[0], f"rope type {kind} has no field {unknown[0]}")
    if kind != "proportional" and not part and fields.get("partial_rotary_factor") not in (None, 1):
        raise unsupported("partial_rotary_factor", f"partial_rotary_factor of rope type {kind} must be 1")
    theta = fields.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA
    rope = RopeConfig(kind, 0.0, rotary_dim, max_position, {**fields, "rope_theta": theta})
    rope = replace(rope, theta=rope.number("rope_theta"))
    _check_computable(rope)
    return rope


def read_two_ropes(
    config: Mapping[str, Any], rotary_dim: int, max_position: int, *, theta: float, local_theta: float
) -> tuple[RopeConfig, RopeConfig]:
    """Rotation of layers that see all, and of those with a window of their own, which `rope_scaling` does not stretch.

    The bases are what config.json means where it gives none. Raises as `read_rope_config`.
    """
    given = config.get("rope_parameters") or {}
    if not isinstance(given, dict) or not set(given) <= {"full_attention", "sliding_attention"}:
        raise unsupported("", f"rope_parameters is {given!r:.80}; full_attention and sliding_attention are needed")
    full = given.get("full_attention") or config.get("rope_scaling") or {}
    local = given.get("sliding_attention") or {}
    bases = config.get("rope_theta") or theta, config.get("rope_local_base_freq") or local_theta
    rope, other = (
        read_rope_config({"rope_parameters": fields, "rope_theta": base}, rotary_dim, max_position)
        for fields, base in zip((full, local), bases, strict=True)
    )
    return rope, other


def _check_computable(rope: RopeConfig) -> None:
    """Raise InvalidArgument for fields that are missing, of the wrong kind, or lead nowhere."""
    if rope.trained_context > MOST:
        raise unsupported(
            "factor", f"rope type {rope.kind} gives a context of {rope.trained_context} tokens; at most {MOST}"
        )
    for tokens in (1, rope.original_max_position + 1, rope.trained_context):
        try:
            with np.errstate(all="ignore"):
                frequencies, scale = FREQUENCIES[rope.kind](rope, tokens)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise unsupported("", f"rope type {rope.kind} cannot be computed: {error}") from None
        if not (np.isfinite(frequencies).all() and math.isfinite(scale)):
            raise unsupported("", f"rope type {rope.kind} gives frequencies that are not finite")


def compute_rope(rope: RopeConfig, tokens: int) -> Rope:
    """Frequencies for a cache that holds `tokens` tokens (sinks and window)."""
    frequencies, scale = FREQUENCIES[rope.kind](rope, tokens)
    assert frequencies.dtype == np.float32, frequencies.dtype
    return Rope(inverse_frequencies=tuple(frequencies.tolist()), attention_scale=scale)
