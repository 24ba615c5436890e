"""A model whose matrices are rounded one after another, each to what the ones before it make of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from builder_service.checkpoint.checkpoint import FloatArray, PackedRows, Tensors
from builder_service.graph.quantize import float8, read_scale
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, Model
from builder_service.model.turned_tensors import held_tensors, inner_basis
from builder_service.model.weight_format import WeightFormat, block_formats
from builder_service.quantization.compensate import Compensation, compensation, round_rows
from builder_service.quantization.dense_model import DenseModel
from builder_service.quantization.grid import grid_of
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
        self._last: tuple[Array, bool, _Read] | None = None  # several matrices read the same

    def product(self, name: str, rows: Array) -> Array:
        if f".{EXPERTS}." in name:
            return super().product(name, rows)
        self.round(name, rows)
        read, inputs = self._read(name, rows).rows, rows.shape[1]
        weights = (unpacked(packed, self.formats.get(name))[:, :inputs] for packed in self.rounded[name])
        return np.concatenate([read @ each.T for each in weights], axis=1).astype(np.float64)

    def round(self, name: str, rows: Array) -> None:
        """Round a matrix that is multiplied by `rows`."""
        read = self._read(name, rows)
        self.rounded[name] = [
            on_disk(self._packed(name, block, read), self._scratch / f"{name}.{number}")
            for number, block in enumerate(_tall(self._tensors.blocks(name)))
        ]

    def _read(self, name: str, rows: Array) -> _Read:
        floating = name in self.formats and self.formats[name].floating
        if self._last is None or self._last[0] is not rows or self._last[1] != floating:
            self._last = rows, floating, _Read.of(rows.astype(np.float32), floating=floating)
        return self._last[2]

    def _packed(self, name: str, rows: FloatArray, read: _Read) -> PackedRows:
        form, found = self.formats.get(name), read.compensation
        if form is not None and name in {EMBEDDING, HEAD}:
            # One matrix may be both, and what is looked up is not made up for.
            grid = grid_of(rows, form)
            return packed_rows(grid.nearest(rows), grid)
        grid = grid_of(rows, form, found.importance)
        return replace(packed_rows(round_rows(rows, grid, found), grid), read_scale=read.scale)


@dataclass(frozen=True)
class _Read:
    """What a matrix is multiplied by, as it is then, and how its inputs make up for each other."""

    rows: FloatArray
    scale: float
    """1 where it is not in float8."""
    compensation: Compensation

    @classmethod
    def of(cls, rows: FloatArray, *, floating: bool) -> Self:
        scale = read_scale(rows) if floating else 1.0
        held = float8(rows / np.float32(scale)) * np.float32(scale) if floating else rows
        return cls(held, scale, compensation(held))


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
