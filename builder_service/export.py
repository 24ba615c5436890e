"""From a model's tensors to an engine's files: `model.onnx` and `weights.bin` beside it.

The graph is made first, from shapes alone; then the weights stream through memory a matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder_service.checkpoint import Tensors
from builder_service.graph import Graph, describe
from builder_service.model import Model
from builder_service.transformer import build_graph
from builder_service.weights import file_bytes, layout, write
from common.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec import Precision
from common.window import Geometry


def export(  # noqa: PLR0917 - the order is that of a build's stages
    model: Model,
    tensors: Tensors,
    geometry: Geometry,
    precision: Precision,
    out: Path,
    progress: Callable[[float], None],
) -> None:
    """Write `out`/model.onnx and `out`/weights.bin; `progress` gets the share done, from 0 to 1.

    Raises InvalidArgument (CHECKPOINT_INVALID) for weights that are not finite or end too early.
    """
    graph = build_graph(model, geometry, precision)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(graph, out / GRAPH_PATH, model.architecture.family)
    write(graph.groups, tensors, out / WEIGHTS_PATH, progress)


def weight_bytes(model: Model, geometry: Geometry, precision: Precision) -> int:
    """Size of `weights.bin`, exactly, without reading a weight."""
    return file_bytes(build_graph(model, geometry, precision).groups)


def _write_graph(graph: Graph, path: Path, name: str) -> None:
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    external = [describe(weight, WEIGHTS_PATH, offsets[weight.name]) for weight in weights]
    path.write_bytes(graph.model(name, external).SerializeToString(deterministic=True))
