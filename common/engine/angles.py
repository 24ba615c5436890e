"""Angles of the rotary position embedding, on the host: the graph knows no positions.

Inverse frequencies come as float32, as Hugging Face rounds them. Their product with a position is exact in
float64 for every position below 2**29, and the cosine of float64 reduces it, so that far positions are as exact as near
ones: the angle between a query and a key depends on their distance alone.

Source: RoFormer (arXiv 2104.09864); the two angles of a query: `window.SessionWindow.cache_index`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from common.spec.manifest import Rope


@dataclass(frozen=True)
class Angles:
    """Turns positions into cosines and sines."""

    inverse_frequencies: npt.NDArray[np.float64]  # [head_dim / 2], then the same of local layers; float32 values
    attention_scale: npt.NDArray[np.float64]  # of each frequency

    @classmethod
    def of(cls, rope: Rope) -> Self:
        """Angles of a model's rotary embedding; rounds its frequencies to float32."""
        sets = (rope.inverse_frequencies, rope.local_inverse_frequencies)
        scales = (rope.attention_scale, rope.local_attention_scale)
        frequencies = np.array([*sets[0], *sets[1]], np.float32).astype(np.float64)
        return cls(frequencies, np.repeat(scales, [len(part) for part in sets]))

    def write(
        self, positions: npt.NDArray[np.int64], cosines: npt.NDArray[np.float32], sines: npt.NDArray[np.float32]
    ) -> None:
        """Fill `cosines` and `sines`, both [*positions.shape, head_dim / 2], for `positions`, times the scale."""
        angle = positions[..., None] * self.inverse_frequencies
        np.multiply(np.cos(angle), self.attention_scale, out=cosines, casting="same_kind")
        np.multiply(np.sin(angle), self.attention_scale, out=sines, casting="same_kind")
