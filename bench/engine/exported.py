"""An engine straight from a checkpoint: exported once into a folder, loaded as a runtime loads it, without services."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from builder_service.checkpoint.checkpoint import FloatArray, PackedRows, Tensors
from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_model, read_rope
from builder_service.graph.weights import write
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.model.turned_tensors import held_tensors
from builder_service.model.weight_format import WeightFormat, block_formats
from builder_service.pipeline.export import engine_graph, write_model, write_resized
from builder_service.quantization.grid import grid_of
from builder_service.quantization.packed import packed_rows
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec.model_spec import Target
from common.window import Geometry


def exported_engine(
    checkpoint: Path, geometry: Geometry, weight_format: WeightFormat, out: Path, threads: int
) -> tuple[OnnxRuntimeEngine, Model]:
    """The engine in `out`, which is written there unless it is this graph already.

    A checkpoint without a tokenizer is random numbers: they are rounded to the nearest, not so as to suit a text, which
    takes long and changes no time of a step.
    """
    source = open_path(checkpoint)
    model = read_model(source.config)
    if not _is_current(model, geometry, weight_format, out):
        tensors = ModelTensors(source.tensors, model)
        if described := source.tokenizer:
            write_model(model, tensors, geometry, weight_format, out, _unheard, tokenizer=described.library)
        else:
            groups = engine_graph(model, geometry, weight_format, Target.ONNXRUNTIME).groups
            out.mkdir(parents=True, exist_ok=True)
            write(groups, _Nearest(tensors, model, weight_format), out / WEIGHTS_PATH, _unheard)
            write_resized(model, geometry, weight_format, out)
    rope = read_rope(model, geometry)
    return OnnxRuntimeEngine(out / GRAPH_PATH, model.architecture, rope, geometry, threads=threads), model


class _Nearest:
    """`KeptTensors` whose matrices are rounded to the nearest."""

    def __init__(self, tensors: Tensors, model: Model, weight_format: WeightFormat) -> None:
        self._tensors = held_tensors(tensors, model, weight_format)
        self._formats = block_formats(model, weight_format)
        self.names = self._tensors.names

    def tensor(self, name: str) -> FloatArray:
        return self._tensors.tensor(name)

    def blocks(self, name: str) -> Iterator[FloatArray]:
        return self._tensors.blocks(name)

    def packed(self, name: str) -> Iterator[PackedRows]:
        for rows in self._tensors.blocks(name):
            grid = grid_of(rows, self._formats.get(name))
            yield packed_rows(grid.nearest(rows), grid)


def _unheard(_: float) -> None:
    """Nobody is told how far it is."""


def _is_current(model: Model, geometry: Geometry, weight_format: WeightFormat, out: Path) -> bool:
    """Whether the graph in `out` is what would be written now."""
    if not (out / GRAPH_PATH).exists():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        graph = write_resized(model, geometry, weight_format, Path(scratch))
        return graph.read_bytes() == (out / GRAPH_PATH).read_bytes()
