"""A checkpoint as a precision holds it, for the reference: its weights there and back, its activations likewise.

With this the reference makes the same roundings as the engine, so that what is left between the two is the error of
float32 arithmetic and of activations that fall on the other side of a rounding, and a wrong graph stands out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.quantize import (
    BLOCK,
    FACTOR_LARGEST,
    INT8_LARGEST,
    UINT8_ZERO,
    bfloat16,
    float8,
    int4_blocks,
    int4_values,
    int8_blocks,
    int8_factors,
    int8_rows,
)
from builder_service.model.basis import Basis
from builder_service.model.weight_format import WeightFormat
from common.spec.model_spec import Precision

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Quantize = Callable[[FloatArray], tuple[npt.NDArray[np.int8], FloatArray]]


class Weights(Protocol):
    """Tensors by their names in a checkpoint, and what becomes of activations before a product."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def vector(self, name: str) -> Array:
        """A norm's scale or a bias."""

    def embedding(self, name: str) -> Iterator[Array]:
        """Rows of the embedding, in order, a block at a time."""

    def matrix(self, name: str) -> Iterator[Array]:
        """Rows of a matrix that activations are multiplied by, in order, a block at a time."""

    def product(self, name: str, rows: Array) -> Array:
        """``rows @ W.T`` for activations [tokens, in], a block of the rows of W at a time."""

    def activations(self, rows: Array, *, last: bool = False) -> Array:
        """[tokens, in] as the multiplication takes them; the `last` gives the logits."""

    def expert_activations(self, rows: Array) -> Array:
        """[tokens, in] as experts take them."""

    def inner(self, rows: Array) -> Array:
        """What `down_proj` reads, [tokens, intermediate], in the basis in which that matrix is held."""


class Rounded(Protocol):
    """Matrices that are known as they were rounded."""

    def __contains__(self, name: object) -> bool: ...

    def rows(self, name: str) -> Iterator[Array]:
        """The rows of one, in order, a block at a time."""

    def read_scale(self, name: str) -> float | None:
        """Of what one in float8 multiplies; None where that is not in float8."""


class FakeQuantized:
    """`Weights` in one format.

    `tensors` are as the engine holds them, and `inner` is the basis of what its `down_proj` reads. Matrices that are
    not among the `rounded` ones are rounded to the nearest.
    """

    def __init__(
        self,
        tensors: Tensors,
        weight_format: WeightFormat,
        inner: Basis | None = None,
        rounded: Rounded | None = None,
    ) -> None:
        precision, block = weight_format.arithmetic, weight_format.block
        self._tensors = tensors
        self._looked_up = precision is not weight_format.precision  # in a matrix of its own
        self._inner = inner
        self._rounded = rounded
        int4 = precision is Precision.INT4
        self._matrix = partial(_int4_and_back, block=block) if int4 else _MATRIX[precision]
        int8 = precision is Precision.INT8
        self._expert = _int8_blocks_and_back if int8 else self._matrix  # in blocks, as the operator has them
        self._embedding = _EMBEDDING.get(precision, self._matrix)
        self._activations = partial(per_block, block=block) if int4 else _ACTIVATIONS[precision]
        self._expert_activations = per_block if int8 else self._activations

    @property
    def names(self) -> tuple[str, ...]:
        return self._tensors.names

    def vector(self, name: str) -> Array:
        return self._tensors.tensor(name).astype(np.float64)

    def embedding(self, name: str) -> Iterator[Array]:
        known = None if self._looked_up else self._known(name)
        return map(self._embedding, self._tensors.blocks(name)) if known is None else known

    def matrix(self, name: str) -> Iterator[Array]:
        if (known := self._known(name)) is not None:
            return known
        convert = self._expert if ".experts." in name else self._matrix
        return map(convert, self._tensors.blocks(name))

    def product(self, name: str, rows: Array) -> Array:
        scale = self._rounded.read_scale(name) if self._rounded is not None and name in self._rounded else None
        rows = rows if scale is None else float8(rows / scale) * scale
        return np.concatenate([rows @ block.T for block in self.matrix(name)], axis=1)

    def activations(self, rows: Array, *, last: bool = False) -> Array:
        del last
        return self._activations(rows)

    def expert_activations(self, rows: Array) -> Array:
        return self._expert_activations(rows)

    def _known(self, name: str) -> Iterator[Array] | None:
        """The rows of a matrix that is known as it was rounded."""
        return self._rounded.rows(name) if self._rounded is not None and name in self._rounded else None

    def inner(self, rows: Array) -> Array:
        return rows if self._inner is None else self._inner.turn(rows)


def _plain(rows: FloatArray) -> Array:
    return rows.astype(np.float64)


def _int8_and_back(rows: FloatArray, quantize: Quantize = int8_rows) -> Array:
    values, scales = quantize(rows)
    return values.astype(np.float64) * scales[:, None]


def _int4_and_back(rows: FloatArray, block: int) -> Array:
    packed, scales, zeros = int4_blocks(rows, block)
    blocks = int4_values(packed).astype(np.float64)
    blocks -= int4_values(zeros)[:, : scales.shape[1], None]
    blocks *= scales[:, :, None]
    return blocks.reshape(len(rows), -1)[:, : rows.shape[1]]


def _int8_blocks_and_back(rows: FloatArray) -> Array:
    values, scales = int8_blocks(rows)
    blocks = (values.astype(np.float64) - UINT8_ZERO) * scales[:, :, None]
    return blocks.reshape(len(rows), -1)[:, : rows.shape[1]]


def _exact(rows: Array) -> Array:
    return rows


def per_token(rows: Array, largest: int = INT8_LARGEST) -> Array:
    """Whole numbers up to `largest` with a scale for each token, [tokens, in]."""
    scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-8) / largest
    rounded: Array = np.rint(rows / scales) * scales
    return rounded


def per_block(rows: Array, block: int = BLOCK) -> Array:
    """int8 with a scale for each `block` inputs of each token, as `MatMulNBits` does at accuracy level 4."""
    padding = -rows.shape[1] % block
    blocks = np.pad(rows, ((0, 0), (0, padding))).reshape(-1, block)
    return per_token(blocks).reshape(len(rows), -1)[:, : rows.shape[1]]


def _half(rows: npt.NDArray[np.floating]) -> Array:
    return rows.astype(np.float16).astype(np.float64)


def _short(rows: npt.NDArray[np.floating]) -> Array:
    return bfloat16(rows).astype(np.float64)


_MATRIX: dict[Precision, Callable[[FloatArray], Array]] = {
    Precision.FP32: _plain,
    Precision.FP16: _half,
    Precision.BF16: _short,
    Precision.INT8: partial(_int8_and_back, quantize=int8_factors),
}
_EMBEDDING: dict[Precision, Callable[[FloatArray], Array]] = {
    Precision.INT8: _int8_and_back,
    Precision.INT4: _int8_blocks_and_back,
}
"""Where it is held otherwise than the matrices."""
_ACTIVATIONS: dict[Precision, Callable[[Array], Array]] = {
    Precision.FP32: _exact,
    Precision.FP16: _half,
    Precision.BF16: _short,
    Precision.INT8: partial(per_token, largest=FACTOR_LARGEST),
}
