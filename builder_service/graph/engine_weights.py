"""The matrices that an engine was given, read from its own files, and how far they are from the checkpoint's.

What a matrix was rounded to depends on a text, so it cannot be computed anew. It is judged instead: each weight has to
be where its own step allows, and the matrix as large as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.quantize import (
    FLOAT8,
    FLOAT8_LARGEST,
    INT4_LARGEST,
    INT4_ZERO,
    INT8_LARGEST,
    UINT8_ZERO,
    bfloat16,
    int4_values,
)
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, Model, tensor_shapes

Array = npt.NDArray[np.float64]
UINT8_LARGEST = 255
_EDGE = 1.5  # steps
_RUN = 64  # rows, as many as a head has: one row may be far off for good reason, a head may not
_ROWS = 512  # of a matrix, at a time
_LEAST_EXPONENT, _MANTISSA = -6, 3  # of float8 (e4m3)
_KINDS = (".int8", ".int4", ".fp8")  # how the names of values end


@dataclass(frozen=True)
class Weighed:
    """A matrix beside the checkpoint's."""

    name: str
    distance: float
    """Root mean square, in steps, of the run of _RUN rows that is furthest off."""
    gain: float
    """How much larger it is, 0 for as large; by weights that cannot have been cut to what their block can be."""
    gain_error: float
    """The standard error of that, if weights were rounded without regard to each other."""
    bits: int


@dataclass(frozen=True)
class _Place:
    stem: str
    rows: range


@dataclass(frozen=True)
class _Rows:
    """Some rows of a matrix, [rows, in]."""

    weights: Array
    steps: Array
    """From a weight to the next that it could be; of float8 the root mean square in its row, for one makes up for
    another."""
    low: Array
    """The least that it could be."""
    high: Array
    bits: int

    def inside(self, exact: Array) -> npt.NDArray[np.bool_]:
        """Where a weight lies so far inside what its block can be that it cannot have been cut."""
        return (exact > self.low + _EDGE * self.steps) & (exact < self.high - _EDGE * self.steps)


@dataclass(frozen=True)
class _Values:
    """What rows are stored as: numbers [rows, blocks, block], the zero points of blocks, and what a number can be."""

    numbers: Array
    zeros: Array
    most: int
    bits: int
    floating: bool = False

    @property
    def spacing(self) -> Array:
        """From a number to the next, root mean square of a block: 1 between whole ones."""
        if not self.floating:
            return np.ones((1, 1, 1))
        exponents = np.frexp(np.abs(self.numbers))[1] - 1  # of 1.0: 0
        steps = np.exp2(np.maximum(exponents, _LEAST_EXPONENT) - _MANTISSA)
        spacing: Array = np.sqrt(np.square(steps).mean(axis=2, keepdims=True))
        return spacing


class EngineWeights:
    """Matrices of `model` by Llama's names, as the graph in the file `graph` reads them."""

    def __init__(self, graph: Path, model: Model) -> None:
        found = onnx.load(graph, load_external_data=False).graph.initializer
        self._stored = {tensor.name: tensor for tensor in found if tensor.external_data}
        self._folder = graph.parent
        self._places: dict[str, _Place] = {}
        shapes = tensor_shapes(model)
        self._shapes = {HEAD: shapes[EMBEDDING], **shapes}  # one of its own, where the basis is another
        for stem in dict.fromkeys(name.rsplit(".", 1)[0] for name in self._stored if name.endswith(_KINDS)):
            self._place(stem)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def rows(self, name: str) -> Iterator[Array]:
        """Its weights, a block of rows at a time."""
        return (found.weights for found in self._blocks(name))

    def read_scale(self, name: str) -> float | None:
        """Of what a matrix in float8 multiplies; None where that is not in float8."""
        stem = f"{self._places[name].stem}.read"
        return float(self._read(stem)) if stem in self._stored else None

    def weigh(self, tensors: Tensors) -> Iterator[Weighed]:
        """Every matrix beside that of `tensors`, which are held as the engine holds them."""
        for name in self._places:
            exact = np.concatenate(list(tensors.blocks(name)))
            start, furthest, sums, bits = 0, 0.0, np.zeros(3), 8
            for found in self._blocks(name):
                rows = exact[start : start + len(found.weights)].astype(np.float64)
                start += len(rows)
                off = found.weights - rows
                steps = np.square(off / found.steps).mean(axis=1)
                runs = [float(steps[at : at + _RUN].mean()) for at in range(0, len(steps), _RUN)]
                furthest, bits = max(furthest, *runs), found.bits
                rows[~found.inside(rows)] = 0
                more = off * rows
                sums += more.sum(), np.square(more).sum(), np.square(rows).sum()
            own = max(float(sums[2]), 1e-30)
            yield Weighed(name, furthest**0.5, float(sums[0]) / own, float(sums[1]) ** 0.5 / own, bits)

    def _place(self, stem: str) -> None:
        """Where the tensors that one multiplication reads lie in the matrix `stem`, whose name lists them."""
        prefix, _, last = stem.removesuffix(".weight").rpartition(".")
        start = 0
        for part in re.findall(r"[a-z]+_proj", last) or [last]:
            name = f"{prefix}.{part}.weight" if prefix else f"{part}.weight"
            if name in self._shapes and f".{EXPERTS}." not in name:
                self._places[name] = _Place(stem, range(start, start + self._shapes[name][0]))
                start += self._shapes[name][0]

    def _blocks(self, name: str) -> Iterator[_Rows]:
        place = self._places[name]
        scales, on_gpu = self._read(f"{place.stem}.scale"), self._on_gpu(place.stem)
        for start in range(place.rows.start, place.rows.stop, _ROWS):
            rows = slice(start, min(start + _ROWS, place.rows.stop))
            values = (self._symmetric if on_gpu else self._with_zeros)(place.stem, rows)
            scale = scales[rows].astype(np.float64).reshape(len(values.numbers), -1, 1)
            low = np.full_like(values.numbers, -FLOAT8_LARGEST) if values.floating else -values.zeros
            high = low + values.most
            weights = (values.numbers - values.zeros) * scale
            weights = bfloat16(weights) if on_gpu else weights
            wanted = (weights, values.spacing * scale, low * scale, high * scale)
            parts = (np.broadcast_to(each, weights.shape).reshape(len(weights), -1) for each in wanted)
            whole, steps, least, most = (each[:, : self._shapes[name][1]] for each in parts)
            yield _Rows(whole, steps, least, most, values.bits)

    def _on_gpu(self, stem: str) -> bool:
        """Whether a matrix is held as a GPU takes it, by rows and without zero points."""
        return f"{stem}.zero" not in self._stored and self._stored[f"{stem}.scale"].data_type == TensorProto.BFLOAT16

    def _symmetric(self, stem: str, rows: slice) -> _Values:
        blocks = self._read(f"{stem}.scale")[rows].reshape(rows.stop - rows.start, -1).shape
        if f"{stem}.fp8" in self._stored:
            numbers = self._read(f"{stem}.fp8")[rows].view(FLOAT8).astype(np.float64)
            return _Values(numbers.reshape(*blocks, -1), np.zeros((1, 1, 1)), 2 * FLOAT8_LARGEST, 8, floating=True)
        if f"{stem}.int8" in self._stored:
            numbers = self._read(f"{stem}.int8")[rows].astype(np.float64) + UINT8_ZERO
            return _Values(numbers.reshape(*blocks, -1), np.full((1, 1, 1), float(UINT8_ZERO)), UINT8_LARGEST, 8)
        numbers = int4_values(self._read(f"{stem}.int4")[rows] ^ np.uint8(0x88)).astype(np.float64)
        return _Values(numbers.reshape(*blocks, -1), np.full((1, 1, 1), float(INT4_ZERO)), INT4_LARGEST, 4)

    def _with_zeros(self, stem: str, rows: slice) -> _Values:
        if f"{stem}.zero" not in self._stored:  # rows of int8, stored by column
            numbers = self._read(f"{stem}.int8")[:, rows].T[:, None].astype(np.float64) + INT8_LARGEST
            return _Values(numbers, np.full((1, 1, 1), float(INT8_LARGEST)), 2 * INT8_LARGEST, 8)
        zeros = self._read(f"{stem}.zero")[rows]
        if f"{stem}.int8" in self._stored:
            numbers = self._read(f"{stem}.int8")[rows].astype(np.float64)
            return _Values(numbers, zeros[:, :, None].astype(np.float64), UINT8_LARGEST, 8)
        numbers = int4_values(self._read(f"{stem}.int4")[rows]).astype(np.float64)
        points = int4_values(zeros)[:, : numbers.shape[1], None].astype(np.float64)
        return _Values(numbers, points, INT4_LARGEST, 4)

    def _read(self, name: str) -> npt.NDArray[Any]:
        """A tensor; bytes of two values each for one of 4 bits."""
        tensor: TensorProto = self._stored[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
        if tensor.data_type == TensorProto.INT4:
            dtype, shape = np.dtype(np.uint8), (*shape[:-1], shape[-1] // 2)
        return np.memmap(self._folder / where["location"], dtype, "r", int(where["offset"]), shape)
