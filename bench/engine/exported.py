"""An engine straight from a checkpoint: exported once into a folder, loaded as a runtime loads it, without services."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.pipeline.export import export, write_resized
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import GRAPH_PATH
from common.spec.model_spec import INT4_BLOCK, Precision
from common.window import Geometry


def exported_engine(
    checkpoint: Path, geometry: Geometry, precision: Precision, out: Path, threads: int, *, int4_block: int = INT4_BLOCK
) -> tuple[OnnxRuntimeEngine, Model]:
    """The engine in `out`, which is written there unless it is this graph already."""
    source = Checkpoint(checkpoint)
    model = read_model(source.config)
    if not _is_current(model, geometry, precision, out, int4_block):
        export(model, ModelTensors(source, model), geometry, precision, out, lambda _: None, int4_block=int4_block)
    rope = read_rope(model, geometry)
    return OnnxRuntimeEngine(out / GRAPH_PATH, model.architecture, rope, geometry, threads=threads), model


def _is_current(model: Model, geometry: Geometry, precision: Precision, out: Path, int4_block: int) -> bool:
    """Whether the graph in `out` is what would be written now."""
    if not (out / GRAPH_PATH).exists():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        graph = write_resized(model, geometry, precision, Path(scratch), int4_block=int4_block)
        return graph.read_bytes() == (out / GRAPH_PATH).read_bytes()
