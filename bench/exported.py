"""An engine straight from a checkpoint: exported once into a folder, loaded as a runtime loads it, without services."""

from __future__ import annotations

from pathlib import Path

from builder_service.checkpoint import Checkpoint
from builder_service.export import export
from builder_service.families import read_model, read_rope
from builder_service.model import Model
from builder_service.tensors import ModelTensors
from common.manifest import GRAPH_PATH
from common.onnxruntime_engine import OnnxRuntimeEngine
from common.spec import INT4_BLOCK, Precision
from common.window import Geometry


def exported_engine(
    checkpoint: Path, geometry: Geometry, precision: Precision, out: Path, threads: int, *, int4_block: int = INT4_BLOCK
) -> tuple[OnnxRuntimeEngine, Model]:
    """The engine of the graph in `out`, which is written there if there is none."""
    source = Checkpoint(checkpoint)
    model = read_model(source.config)
    if not (out / GRAPH_PATH).exists():
        export(model, ModelTensors(source, model), geometry, precision, out, lambda _: None, int4_block=int4_block)
    rope = read_rope(model, geometry)
    return OnnxRuntimeEngine(out / GRAPH_PATH, model.architecture, rope, geometry, threads=threads), model
