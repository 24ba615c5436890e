"""The matrices that an engine was given, read from its own files, and how far they are from the checkpoint's.

What a matrix was rounded to depends on a text, so it cannot be computed anew. It is judged instead: every block has a
scale and a zero point that its own range in the checkpoint gives, each weight is where its step allows, and the matrix
is as large as it was.
"""

from __future__ import annotations

import math
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
    LEAST_SCALE,
    SHARES,
    UINT8_ZERO,
    bfloat16,
    factor_scales,
    in_blocks,
    int4_values,
)
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, Model, tensor_shapes

Array = npt.NDArray[np.float64]
UINT8_LARGEST = 255
_ROWS = 512  # of a matrix, at a time
_EDGE = 1.5  # steps
_RUN = 64  # rows, as many as a head has: one row may be far off for good reason, a head may not
_SHORT = 2.0**-7  # relative: as much as the next larger bfloat16 is larger, at most
_LEAST_EXPONENT, _MANTISSA = -6, 3  # of float8 (e4m3)
_KINDS = (".int8", ".int4", ".fp8")  # how the names of values end


@dataclass(frozen=True)
class _Place:
    stem: str
    rows: range


@dataclass(frozen=True)
class StoredValues:
    """What rows are stored as: numbers [rows, blocks, block], the zero points of blocks, and what a number can be."""

    numbers: Array
    zeros: Array
    most: int
    bits: int
    floating: bool = False

    @property
    def least(self) -> float:
        """The least of the numbers."""
        return -FLOAT8_LARGEST if self.floating else 0.0

    @property
    def spacing(self) -> Array:
        """From a number to the next, root mean square of a block: 1 between whole ones."""
        if not self.floating:
            return np.ones((1, 1, 1))
        exponents = np.frexp(np.abs(self.numbers))[1] - 1  # of 1.0: 0
        steps = np.exp2(np.maximum(exponents, _LEAST_EXPONENT) - _MANTISSA)
        spacing: Array = np.sqrt(np.square(steps).mean(axis=2, keepdims=True))
        return spacing


@dataclass(frozen=True)
class StoredRows:
    """Some rows of a matrix with a scale for each block, [rows, blocks, 1]; `inputs` of a row are weights, the others
    fill its last block.
    """

    values: StoredValues
    scales: Array
    inputs: int
    on_gpu: bool
    """Held as a GPU takes it: without zero points of its own, weights rounded to bfloat16."""

    @property
    def weights(self) -> Array:
        """[rows, in]."""
        weights = (self.values.numbers - self.values.zeros) * self.scales
        return self._flat(bfloat16(weights) if self.on_gpu else weights)

    @property
    def steps(self) -> Array:
        """From a weight to the next that it could be; of float8 the root mean square in its row, for one makes up for
        another. [rows, in].
        """
        return self._flat(self.values.spacing * self.scales)

    @property
    def low(self) -> Array:
        """The least that each weight could be, [rows, in]."""
        return self._flat((self.values.least - self.values.zeros) * self.scales)

    @property
    def high(self) -> Array:
        """The largest, likewise."""
        return self._flat((self.values.least + self.values.most - self.values.zeros) * self.scales)

    def nearest(self, exact: Array) -> Array:
        """What the weights `exact` are rounded to if each is by itself, [rows, in]; of float8 they themselves."""
        if self.values.floating:
            return exact
        scales, zeros = self._flat(self.scales), self._flat(self.values.zeros)
        nearest: Array = (np.rint(exact / scales + zeros) - zeros) * scales
        return nearest

    def _flat(self, blocks: Array) -> Array:
        shape = self.values.numbers.shape
        return np.broadcast_to(blocks, shape).reshape(len(self.scales), -1)[:, : self.inputs]


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

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def rows(self, name: str) -> Iterator[Array]:
        """Its weights, a block of rows at a time."""
        return (found.weights for found in self.stored(name))

    def read_scale(self, name: str) -> float | None:
        """Of what a matrix in float8 multiplies; None where that is not in float8."""
        stem = f"{self._places[name].stem}.read"
        return float(self._read(stem)) if stem in self._stored else None

    def _place(self, stem: str) -> None:
        """Where the tensors that one multiplication reads lie in the matrix `stem`, whose name lists them."""
        prefix, _, last = stem.removesuffix(".weight").rpartition(".")
        start = 0
        for part in re.findall(r"[a-z]+_proj", last) or [last]:
            name = f"{prefix}.{part}.weight" if prefix else f"{part}.weight"
            if name in self._shapes and f".{EXPERTS}." not in name:
                self._places[name] = _Place(stem, range(start, start + self._shapes[name][0]))
                start += self._shapes[name][0]

    def stored(self, name: str) -> Iterator[StoredRows]:
        """Its rows as they are stored, some at a time."""
        place = self._places[name]
        scales, on_gpu = self._read(f"{place.stem}.scale"), self._on_gpu(place.stem)
        for start in range(place.rows.start, place.rows.stop, _ROWS):
            rows = slice(start, min(start + _ROWS, place.rows.stop))
            values = (self._symmetric if on_gpu else self._with_zeros)(place.stem, rows)
            steps = scales[rows].astype(np.float64).reshape(len(values.numbers), -1, 1)
            yield StoredRows(values, steps, self._shapes[name][1], on_gpu)

    def _on_gpu(self, stem: str) -> bool:
        """Whether a matrix is held as a GPU takes it, by rows and without zero points."""
        return f"{stem}.zero" not in self._stored and self._stored[f"{stem}.scale"].data_type == TensorProto.BFLOAT16

    def _symmetric(self, stem: str, rows: slice) -> StoredValues:
        blocks = self._read(f"{stem}.scale")[rows].reshape(rows.stop - rows.start, -1).shape
        if f"{stem}.fp8" in self._stored:
            numbers = self._read(f"{stem}.fp8")[rows].view(FLOAT8).astype(np.float64)
            return StoredValues(numbers.reshape(*blocks, -1), np.zeros((1, 1, 1)), 2 * FLOAT8_LARGEST, 8, floating=True)
        if f"{stem}.int8" in self._stored:
            numbers = self._read(f"{stem}.int8")[rows].astype(np.float64) + UINT8_ZERO
            return StoredValues(numbers.reshape(*blocks, -1), np.full((1, 1, 1), float(UINT8_ZERO)), UINT8_LARGEST, 8)
        numbers = int4_values(self._read(f"{stem}.int4")[rows] ^ np.uint8(0x88)).astype(np.float64)
        return StoredValues(numbers.reshape(*blocks, -1), np.full((1, 1, 1), float(INT4_ZERO)), INT4_LARGEST, 4)

    def _with_zeros(self, stem: str, rows: slice) -> StoredValues:
        if f"{stem}.zero" not in self._stored:  # rows of int8, stored by column
            numbers = self._read(f"{stem}.int8")[:, rows].T[:, None].astype(np.float64) + INT8_LARGEST
            return StoredValues(numbers, np.full((1, 1, 1), float(INT8_LARGEST)), 2 * INT8_LARGEST, 8)
        zeros = self._read(f"{stem}.zero")[rows]
        if f"{stem}.int8" in self._stored:
            numbers = self._read(f"{stem}.int8")[rows].astype(np.float64)
            return StoredValues(numbers, zeros[:, :, None].astype(np.float64), UINT8_LARGEST, 8)
        numbers = int4_values(self._read(f"{stem}.int4")[rows]).astype(np.float64)
        points = int4_values(zeros)[:, : numbers.shape[1], None].astype(np.float64)
        return StoredValues(numbers, points, INT4_LARGEST, 4)

    def _read(self, name: str) -> npt.NDArray[Any]:
        """A tensor; bytes of two values each for one of 4 bits."""
        tensor: TensorProto = self._stored[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
        if tensor.data_type == TensorProto.INT4:
            dtype, shape = np.dtype(np.uint8), (*shape[:-1], shape[-1] // 2)
        return np.memmap(self._folder / where["location"], dtype, "r", int(where["offset"]), shape)


@dataclass(frozen=True)
class Weighed:
    """A matrix beside the checkpoint's; what is of a run is of the one of _RUN rows that is furthest off."""

    name: str
    bits: int
    distance: float
    """Of weights, in steps; root mean square of a run."""
    scale: float
    """Of scales from the nearest that their blocks may have, relative; root mean square of a run."""
    zero: float
    """Of zero points from those that go with such scales; root mean square of a run."""
    gain: float
    """How much larger it is than the nearest numbers of its own grid, 0 for as large; by weights that cannot have been
    cut to what their block can be.
    """
    gain_error: float
    """The standard error of that, if weights were rounded without regard to each other."""


def weigh(weights: EngineWeights, tensors: Tensors) -> Iterator[Weighed]:
    """Every matrix beside that of `tensors`, which are held as the engine holds them."""
    for name in weights:
        yield _weighed(name, np.concatenate(list(tensors.blocks(name))), weights.stored(name))


def _weighed(name: str, exact: npt.NDArray[np.float32], stored: Iterator[StoredRows]) -> Weighed:
    start, bits, furthest, sums = 0, 8, np.zeros(3), np.zeros(3)
    for found in stored:
        rows = exact[start : start + len(found.scales)].astype(np.float64)
        start, bits, edge = start + len(rows), found.values.bits, _EDGE * found.steps
        off = ((found.weights - rows) / found.steps, *_off_grid(rows, found))
        furthest = np.maximum(furthest, list(map(_furthest_run, off)))
        more = found.weights - found.nearest(rows)
        rows[(rows < found.low + edge) | (rows > found.high - edge)] = 0
        more *= rows
        sums += more.sum(), np.square(more).sum(), np.square(rows).sum()
    own = max(float(sums[2]), 1e-30)
    distance, scale, zero = map(float, furthest)
    return Weighed(name, bits, distance, scale, zero, float(sums[0]) / own, float(sums[1]) ** 0.5 / own)


def _furthest_run(off: Array) -> float:
    """The largest root mean square of a run of rows, [rows, anything]."""
    squares = np.square(off).mean(axis=1)
    return math.sqrt(max(squares[at : at + _RUN].mean() for at in range(0, len(squares), _RUN)))


def _off_grid(exact: Array, found: StoredRows) -> tuple[Array, Array]:
    """How far scales are from the nearest that a block of `exact` may have, relative, and zero points from theirs.

    0 of a block in which there is nothing.
    """
    stored, scales = found.values, found.scales[:, :, 0]
    zeros = np.broadcast_to(stored.zeros, found.scales.shape)[:, :, 0]
    if stored.most == 2 * INT8_LARGEST:
        own = factor_scales(exact.astype(np.float32))[:, None]
        return scales / own - 1, zeros - INT8_LARGEST
    blocks = in_blocks(exact, stored.numbers.shape[2])
    low, high = blocks.min(axis=2, initial=0), blocks.max(axis=2, initial=0)
    middle = (stored.most + 1) // 2 if found.on_gpu and not stored.floating else stored.most / 2
    wide = np.maximum(-low / middle, high / (stored.most - middle)) if found.on_gpu else (high - low) / stored.most
    whole, shares = np.maximum(wide, LEAST_SCALE), SHARES[:1] if stored.floating else SHARES
    ratios = scales[:, :, None] / (whole[:, :, None] * shares)
    off = np.maximum(np.maximum(1 - ratios, ratios - (1 + _SHORT)), 0)
    nearest, known = off.argmin(axis=2), whole * min(shares) > LEAST_SCALE
    points = zeros if found.on_gpu else np.rint(-low * np.array(shares)[nearest] / scales)
    return off.min(axis=2) * known, (zeros - points) * known
