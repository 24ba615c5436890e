"""From a checkpoint folder to an engine in one call, without services."""

from __future__ import annotations

from pathlib import Path

from builder_service.checkpoint import Checkpoint
from builder_service.export import export
from builder_service.llama import read_architecture, read_rope
from common.manifest import GRAPH_PATH
from common.onnxruntime_engine import OnnxRuntimeEngine
from common.spec import CacheGeometry, ModelSpec, Precision, Source
from common.window import Geometry


def build_engine(folder: Path, geometry: Geometry, precision: str = "fp32", *, threads: int = 1) -> OnnxRuntimeEngine:
    """Export the checkpoint in `folder` to a folder beside it, named by geometry and precision, and load it."""
    out = export_graph(folder, geometry, precision)
    config = Checkpoint(folder).config
    return OnnxRuntimeEngine(
        out / GRAPH_PATH, read_architecture(config), read_rope(config, geometry), geometry, threads=threads
    )


def export_graph(folder: Path, geometry: Geometry, precision: str = "fp32") -> Path:
    """The folder of the exported graph; made once."""
    g = geometry
    out = folder / f"engine-{g.sinks}-{g.window}-{g.chunk}-{g.slots}-{precision}"
    if not (out / GRAPH_PATH).exists():
        checkpoint = Checkpoint(folder)
        cache = CacheGeometry(sink_tokens=g.sinks, window_tokens=g.window, chunk_tokens=g.chunk, max_slots=g.slots)
        spec = ModelSpec(name="test", source=Source(uri=str(folder)), precision=Precision(precision), cache=cache)
        architecture, rope = read_architecture(checkpoint.config), read_rope(checkpoint.config, geometry)
        export(checkpoint, architecture, rope, spec, out, lambda _: None)
    return out
