"""Rotary position embedding: the inverse frequencies of every `rope_type`, rounded as Hugging Face rounds them.

Reads both spellings of config.json (`rope_theta` and `rope_scaling`; `rope_parameters`). Types whose frequencies
depend on the length of the text (`dynamic`, `longrope`) are fixed by the tokens that a cache can hold.

Source: `modeling_rope_utils.py` of Hugging Face transformers 5.23, which computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument, Reason
from common.manifest import Rope

FloatArray = npt.NDArray[np.float32]
DEFAULT_THETA = 10_000.0
ONE = np.float32(1)


@dataclass(frozen=True)
class RopeConfig:
    """What config.json says about rotation."""

    kind: str
    theta: float
    head_dim: int
    max_position: int  # max_position_embeddings
    fields: Mapping[str, Any]

    @property
    def factor(self) -> float:
        """How much the context is stretched; at least 1."""
        return self.number("factor", self.max_position / self.original_max_position)

    @property
    def original_max_position(self) -> int:
        """Context before it was stretched, where the type knows one."""
        return int(self.number("original_max_position_embeddings", self.max_position))

    @property
    def trained_context(self) -> int:
        """Tokens that the checkpoint is made for; `linear` and `dynamic` stretch max_position_embeddings itself."""
        if self.kind in ("linear", "dynamic"):
            return int(self.max_position * self.factor)
        if self.kind == "yarn":
            return int(self.original_max_position * self.factor)
        return self.max_position

    def number(self, name: str, default: float | None = None) -> float:
        """A field that is a finite number above 0; raises InvalidArgument for what is not."""
        value = self.fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise _unsupported(name, f"{name} of rope type {self.kind} is {value!r}; a number above 0 is needed")
        return float(value)


def read_rope_config(config: Mapping[str, Any], head_dim: int, max_position: int) -> RopeConfig:
    """Rotation from either spelling; raises InvalidArgument (CONFIG_UNSUPPORTED) naming the field."""
    fields = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(fields, dict):
        raise _unsupported("", f"rope_parameters is {fields!r}; an object is needed")
    if config.get("original_max_position_embeddings") is not None:
        fields = fields | {"original_max_position_embeddings": config["original_max_position_embeddings"]}
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind not in _TYPES:
        raise _unsupported("rope_type", f"rope_type {kind!r} is not supported; {', '.join(_TYPES)} are")
    if unknown := sorted(set(fields) - _COMMON_FIELDS - _FIELDS[kind]):
        raise _unsupported(unknown[0], f"rope type {kind} has no field {unknown[0]}")
    if kind != "proportional" and fields.get("partial_rotary_factor") not in (None, 1):
        raise _unsupported("partial_rotary_factor", f"partial_rotary_factor of rope type {kind} must be 1")
    theta = fields.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA
    rope = RopeConfig(kind, 0.0, head_dim, max_position, {**fields, "rope_theta": theta})
    return RopeConfig(kind, rope.number("rope_theta"), head_dim, max_position, fields)


def compute_rope(rope: RopeConfig, tokens: int) -> Rope:
    """Frequencies for a cache that holds `tokens` tokens (sinks and window)."""
    frequencies, scale = _TYPES[rope.kind](rope, tokens)
    assert frequencies.dtype == np.float32, frequencies.dtype
    return Rope(inverse_frequencies=tuple(frequencies.tolist()), attention_scale=scale)


Frequencies = tuple[FloatArray, float]


def _default(rope: RopeConfig, tokens: int) -> Frequencies:
    del tokens
    return ONE / _wavelengths(rope, rope.theta), 1.0


def _linear(rope: RopeConfig, tokens: int) -> Frequencies:
    del tokens
    return ONE / _wavelengths(rope, rope.theta) / np.float32(rope.number("factor")), 1.0


def _dynamic(rope: RopeConfig, tokens: int) -> Frequencies:
    """NTK-aware: the base grows with the length once it passes max_position_embeddings."""
    if tokens <= rope.max_position:
        return _default(rope, tokens)
    factor, dim = rope.number("factor"), rope.head_dim
    stretch = np.float32(factor) * np.float32(tokens) / np.float32(rope.max_position) - np.float32(factor - 1)
    base = np.float32(rope.theta) * np.float32(float(stretch) ** (dim / (dim - 2)))
    return ONE / _wavelengths(rope, float(base)), 1.0


def _yarn(rope: RopeConfig, tokens: int) -> Frequencies:
    """YaRN (arXiv 2309.00071): fast dimensions stay, slow ones are interpolated, a ramp lies between."""
    del tokens
    wavelengths = _wavelengths(rope, rope.theta)
    kept = ONE - _yarn_ramp(rope)
    interpolated = ONE / (np.float32(rope.factor) * wavelengths)
    return interpolated * (ONE - kept) + ONE / wavelengths * kept, _yarn_scale(rope)


def _yarn_ramp(rope: RopeConfig) -> FloatArray:
    """0 where a dimension turns often, 1 where it turns rarely, in the original context."""

    def dimension(rotations: float) -> float:
        turns = rope.original_max_position / (rotations * 2 * math.pi)
        return rope.head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.number("beta_fast", 32)), dimension(rope.number("beta_slow", 1))
    if rope.fields.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.head_dim - 1)
    high += 0.001 if low == high else 0  # as Hugging Face avoids the division by zero
    index = np.arange(rope.head_dim // 2, dtype=np.float32)
    ramp: FloatArray = np.clip((index - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    return ramp


def _yarn_scale(rope: RopeConfig) -> float:
    if rope.fields.get("attention_factor") is not None:
        return rope.number("attention_factor")

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0

    if rope.fields.get("mscale") and rope.fields.get("mscale_all_dim"):
        return mscale(rope.number("mscale")) / mscale(rope.number("mscale_all_dim"))
    return mscale(1)


def _longrope(rope: RopeConfig, tokens: int) -> Frequencies:
    """LongRoPE (arXiv 2402.13753): one factor a dimension, another set beyond the original context."""
    name = "long_factor" if tokens > rope.original_max_position else "short_factor"
    factors = rope.fields.get(name)
    if not isinstance(factors, list) or len(factors) != rope.head_dim // 2:
        raise _unsupported(name, f"{name} of rope type longrope needs {rope.head_dim // 2} numbers")
    return ONE / (np.array(factors, np.float32) * _wavelengths(rope, rope.theta)), _longrope_scale(rope)


def _longrope_scale(rope: RopeConfig) -> float:
    if rope.fields.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_position))


def _llama3(rope: RopeConfig, tokens: int) -> Frequencies:
    """Llama 3.1: long wavelengths are divided by the factor, medium ones smoothly."""
    del tokens
    frequencies = ONE / _wavelengths(rope, rope.theta)
    factor, context = np.float32(rope.number("factor")), rope.original_max_position
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    smoothed = (ONE - smooth) * frequencies / factor + smooth * frequencies
    slow, fast = wavelengths > context / low, wavelengths < context / high
    return np.where(slow, frequencies / factor, np.where(fast, frequencies, smoothed)), 1.0


def _proportional(rope: RopeConfig, tokens: int) -> Frequencies:
    """Only the first part of a head turns; the others have frequency 0."""
    del tokens
    turning = int(rope.number("partial_rotary_factor", 1) * rope.head_dim // 2)
    frequencies = ONE / _wavelengths(rope, rope.theta) / np.float32(rope.number("factor", 1))
    frequencies[turning:] = 0
    return frequencies, 1.0


def _wavelengths(rope: RopeConfig, theta: float) -> FloatArray:
    """Turn lengths over 2 pi: theta ** (2 i / head_dim), float32 [head_dim / 2]; the power is rounded once, from a float32 exponent."""
    exponents = np.arange(0, rope.head_dim, 2, dtype=np.float32) / np.float32(rope.head_dim)
    return np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


_TYPES: dict[str, Callable[[RopeConfig, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
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


def _unsupported(name: str, message: str) -> InvalidArgument:
    field = ".".join(part for part in ("source.config.json.rope_parameters", name) if part)
    return InvalidArgument(Reason.CONFIG_UNSUPPORTED, message, field=field)
