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
from builder_service.graph.quantize import INT4_LARGEST, INT8_LARGEST, int4_values
from builder_service.model.model import EMBEDDING, EXPERTS, HEAD, Model, tensor_shapes

Array = npt.NDArray[np.float64]
UINT8_LARGEST = 255
_EDGE = 1.5  # steps
_RUN = 64  # rows, as many as a head has: one row may be far off for good reason, a head may not
_ROWS = 512  # of a matrix, at a time


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
    zeros: Array
    most: int

    def inside(self, exact: Array) -> npt.NDArray[np.bool_]:
        """Where a weight lies so far inside what its block can be that it cannot have been cut."""
        places = exact / self.steps + self.zeros
        return (places > _EDGE) & (places < self.most - _EDGE)


class EngineWeights:
    """Matrices of `model` by Llama's names, as the graph in the file `graph` reads them."""

    def __init__(self, graph: Path, model: Model) -> None:
        found = onnx.load(graph, load_external_data=False).graph.initializer
        self._stored = {tensor.name: tensor for tensor in found if tensor.external_data}
        self._folder = graph.parent
        self._places: dict[str, _Place] = {}
        shapes = tensor_shapes(model)
        self._shapes = {HEAD: shapes[EMBEDDING], **shapes}  # one of its own, where the basis is another
        for stem in dict.fromkeys(name.rsplit(".", 1)[0] for name in self._stored if name.endswith((".int8", ".int4"))):
            self._place(stem)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def rows(self, name: str) -> Iterator[Array]:
        """Its weights, a block of rows at a time."""
        return (found.weights for found in self._blocks(name))

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
                furthest, bits = max(furthest, *runs), 4 if found.most == INT4_LARGEST else 8
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
        scales = self._read(f"{place.stem}.scale")
        for start in range(place.rows.start, place.rows.stop, _ROWS):
            rows = slice(start, min(start + _ROWS, place.rows.stop))
            values, zeros, most = self._values(place.stem, rows)
            steps = scales[rows].astype(np.float64).reshape(len(values), -1, 1)
            steps, zeros = (np.broadcast_to(each, values.shape) for each in (steps, zeros))
            weights, steps, zeros = (
                each.reshape(len(values), -1)[:, : self._shapes[name][1]]
                for each in ((values - zeros) * steps, steps, zeros)
            )
            yield _Rows(weights, steps, zeros, most)

    def _values(self, stem: str, rows: slice) -> tuple[Array, Array, int]:
        """Whole numbers [rows, blocks, block], zero points [rows, blocks, 1], and the largest that they can be."""
        if f"{stem}.zero" not in self._stored:  # rows of int8, stored by column
            values = self._read(f"{stem}.int8")[:, rows].T[:, None].astype(np.float64) + INT8_LARGEST
            return values, np.full((1, 1, 1), float(INT8_LARGEST)), 2 * INT8_LARGEST
        zeros = self._read(f"{stem}.zero")[rows]
        if f"{stem}.int8" in self._stored:
            values = self._read(f"{stem}.int8")[rows].astype(np.float64)
            return values, zeros[:, :, None].astype(np.float64), UINT8_LARGEST
        values = int4_values(self._read(f"{stem}.int4")[rows]).astype(np.float64)
        points = int4_values(zeros)[:, : values.shape[1], None].astype(np.float64)
        return values, points, INT4_LARGEST

    def _read(self, name: str) -> npt.NDArray[Any]:
        tensor: TensorProto = self._stored[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path, shape = self._folder / where["location"], tuple(tensor.dims)
        return np.memmap(path, dtype, "r", int(where["offset"]), shape)
