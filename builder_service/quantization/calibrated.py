"""A model whose matrices are rounded one after another, each to what the ones before it make of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from builder_service.checkpoint.checkpoint import FloatArray, PackedRows, Tensors
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, Model
from builder_service.model.turned_tensors import held_tensors, inner_basis
from builder_service.model.weight_format import WeightFormat, block_formats
from builder_service.quantization.compensate import Compensation, compensation, round_rows
from builder_service.quantization.dense_model import DenseModel
from builder_service.quantization.grid import block_grid, row_grid
from builder_service.quantization.packed import on_disk, packed_rows, unpacked
from builder_service.verify.fake_quantize import Array, FakeQuantized
from builder_service.verify.reference_model import Stream
from common.spec.manifest import Rope

_LENGTH = 256  # tokens of a stream
_ROWS = 2048  # of a matrix that are rounded together


class RoundedTensors:
    """`Tensors` as an engine holds them, and of its matrices what they were rounded to."""

    def __init__(self, tensors: Tensors, rounded: dict[str, list[PackedRows]]) -> None:
        self._tensors = tensors
        self._rounded = rounded
        self.names = tensors.names

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor, not rounded."""
        return self._tensors.tensor(name)

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows, not rounded, a bounded block at a time."""
        return self._tensors.blocks(name)

    def packed(self, name: str) -> Iterator[PackedRows]:
        """The rows of a rounded matrix."""
        yield from self._rounded[name]


def round_model(  # noqa: PLR0917 - a model, and what it is rounded by
    tensors: Tensors,
    model: Model,
    rope: Rope,
    weight_format: WeightFormat,
    tokens: Sequence[int],
    scratch: Path,
    progress: Callable[[float], None],
) -> RoundedTensors:
    """Round all matrices but those of experts, to suit a text of these `tokens`.

    What they become lies in files in `scratch`, for as long as it is wanted: one matrix is in memory at a time.
    `progress` gets the share done.
    """
    held = held_tensors(tensors, model, weight_format)
    rounding = _Rounding(held, model, weight_format, scratch)
    runs = [tuple(tokens[start : start + _LENGTH]) for start in range(0, len(tokens), _LENGTH)]
    streams = tuple(Stream(0, len(run), tuple(range(len(run))), run) for run in runs)
    last = DenseModel(rounding, model, rope).run(streams, progress)
    rounding.round(HEAD if HEAD in held.names else EMBEDDING, last)
    if EMBEDDING in rounding.formats:
        rounding.round(EMBEDDING, last)
    progress(1.0)
    return RoundedTensors(held, rounding.rounded)


class _Rounding(FakeQuantized):
    """`Weights` that round a matrix when it is first multiplied."""

    def __init__(self, tensors: Tensors, model: Model, weight_format: WeightFormat, scratch: Path) -> None:
        super().__init__(tensors, weight_format, inner_basis(model, weight_format))
        self._scratch = scratch
        self.formats = block_formats(model, weight_format)
        self.rounded: dict[str, list[PackedRows]] = {}
        self._last: tuple[Array, Compensation] | None = None  # several matrices read the same

    def product(self, name: str, rows: Array) -> Array:
        if f".{EXPERTS}." in name:
            return super().product(name, rows)
        self.round(name, rows)
        narrow, inputs = rows.astype(np.float32), rows.shape[1]
        weights = (unpacked(packed, self._bits(name))[:, :inputs] for packed in self.rounded[name])
        return np.concatenate([narrow @ each.T for each in weights], axis=1).astype(np.float64)

    def round(self, name: str, rows: Array) -> None:
        """Round a matrix that is multiplied by `rows`."""
        found = self._compensation(rows)
        self.rounded[name] = [
            on_disk(self._packed(name, block, found), self._scratch / f"{name}.{number}")
            for number, block in enumerate(_tall(self._tensors.blocks(name)))
        ]

    def _bits(self, name: str) -> int:
        return self.formats[name].bits if name in self.formats else 8

    def _compensation(self, rows: Array) -> Compensation:
        if self._last is None or self._last[0] is not rows:
            self._last = rows, compensation(rows)
        return self._last[1]

    def _packed(self, name: str, rows: FloatArray, found: Compensation) -> PackedRows:
        if name not in self.formats:
            grid = row_grid(rows)
            return packed_rows(round_rows(rows, grid, found), grid)
        form = self.formats[name]
        if name in {EMBEDDING, HEAD}:  # one matrix may be both, and what is looked up is not made up for
            grid = block_grid(rows, form.block, form.bits)
            return packed_rows(grid.nearest(rows), grid)
        grid = block_grid(rows, form.block, form.bits, found.importance)
        return packed_rows(round_rows(rows, grid, found), grid)


def _tall(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """The same rows, more at a time: a column of many costs what a column of few does."""
    waiting: list[FloatArray] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= _ROWS:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting:
        yield np.concatenate(waiting)
