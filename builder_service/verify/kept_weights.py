"""The weights of a quantized checkpoint as they are stored, for the reference, and activations as kept ones take them.

The weights are exact. An engine rounds activations to int8 by a matrix's own blocks; the part of a weight that all of
a block share is multiplied by inputs that were not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray, Tensors
from builder_service.verify.fake_quantize import Array, per_block


@runtime_checkable
class SharedParts(Tensors, Protocol):
    """`Tensors` that know what the weights of a block have in common."""

    def shared(self, name: str) -> Iterator[FloatArray]:
        """For each block of `blocks`, [rows, blocks of inputs]: what is left of a minimum that is no multiple of the
        scale.
        """

    def order(self, name: str) -> npt.NDArray[np.int64]:
        """In which order a matrix takes its inputs, [inputs], where its format has one of its own."""


class KeptWeights:
    """`Weights` of which those in `kept` are quantized."""

    def __init__(self, tensors: SharedParts, kept: Mapping[str, BlockFormat]) -> None:
        self._tensors = tensors
        self._kept = kept

    @property
    def names(self) -> tuple[str, ...]:
        return self._tensors.names

    def vector(self, name: str) -> Array:
        return self._tensors.tensor(name).astype(np.float64)

    def embedding(self, name: str) -> Iterator[Array]:
        return self.matrix(name)

    def matrix(self, name: str) -> Iterator[Array]:
        return (block.astype(np.float64) for block in self._tensors.blocks(name))

    def activations(self, rows: Array, *, last: bool = False) -> Array:
        """As they are: each matrix rounds them by its own blocks."""
        del last
        return rows

    def expert_activations(self, rows: Array) -> Array:
        return rows

    def inner(self, rows: Array) -> Array:
        return rows

    def product(self, name: str, rows: Array) -> Array:
        found = self._kept.get(name)
        if found is None:
            return np.concatenate([rows @ block.T for block in self.matrix(name)], axis=1)
        if found.order:  # columns that stand in blocks together are rounded together
            order = self._tensors.order(name)
            return np.concatenate(
                [per_block(rows[:, order], found.block) @ block[:, order].T for block in self.matrix(name)], axis=1
            )
        rounded = per_block(rows, found.block)
        if not found.corrected:
            return np.concatenate([rounded @ block.T for block in self.matrix(name)], axis=1)
        lost = (rows - rounded).reshape(len(rows), -1, found.block).sum(axis=2)
        pairs = zip(self.matrix(name), self._tensors.shared(name), strict=True)
        return np.concatenate([rounded @ block.T + lost @ shared.T for block, shared in pairs], axis=1)
