"""An engine straight from a checkpoint: exported once into a folder, loaded as a runtime loads it, without services."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_model, read_rope
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import write_model, write_resized
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import GRAPH_PATH
from common.window import Geometry


def exported_engine(
    checkpoint: Path, geometry: Geometry, weight_format: WeightFormat, out: Path, threads: int
) -> tuple[OnnxRuntimeEngine, Model]:
    """The engine in `out`, which is written there unless it is this graph already."""
    source = open_path(checkpoint)
    model = read_model(source.config)
    if not _is_current(model, geometry, weight_format, out):
        tensors, described = ModelTensors(source.tensors, model), source.tokenizer
        tokenizer = described.library if described else None
        write_model(model, tensors, geometry, weight_format, out, lambda _: None, tokenizer=tokenizer)
    rope = read_rope(model, geometry)
    return OnnxRuntimeEngine(out / GRAPH_PATH, model.architecture, rope, geometry, threads=threads), model


def _is_current(model: Model, geometry: Geometry, weight_format: WeightFormat, out: Path) -> bool:
    """Whether the graph in `out` is what would be written now."""
    if not (out / GRAPH_PATH).exists():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        graph = write_resized(model, geometry, weight_format, Path(scratch))
        return graph.read_bytes() == (out / GRAPH_PATH).read_bytes()
