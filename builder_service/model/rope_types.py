"""Inverse frequencies of every `rope_type`, [head_dim / 2], and what cosine and sine are multiplied by.

Computed in float32, in the order in which Hugging Face does it, so that they are the same numbers but for the last bit.

Source: `modeling_rope_utils.py` of Hugging Face transformers 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from builder_service.model.rope_config import RopeConfig, unsupported

FloatArray = npt.NDArray[np.float32]
ONE = np.float32(1)
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
    factors = rope.fields.get(name, ())
    if not _are_numbers(factors) or len(factors) != rope.head_dim // 2:
        raise unsupported(name, f"{name} of rope type longrope needs {rope.head_dim // 2} numbers")
    return ONE / (np.array(factors, np.float32) * _wavelengths(rope, rope.theta)), _longrope_scale(rope)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


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
    """Tokens a radian: theta ** (2 i / head_dim), [head_dim / 2]; exponents and powers are rounded once."""
    exponents = np.arange(0, rope.head_dim, 2, dtype=np.float32) / np.float32(rope.head_dim)
    return np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


FREQUENCIES: Mapping[str, Callable[[RopeConfig, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
"""By `rope_type`; the second argument is the tokens that a cache can hold."""
