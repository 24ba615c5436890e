"""From a checkpoint to an engine's files: `model.onnx` and `weights.bin` beside it.

The graph is made first, from shapes alone; then the weights stream through memory a matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder_service.checkpoint import Checkpoint
from builder_service.graph import Graph, describe
from builder_service.llama import Llama, check_geometry, check_tensors, read_llama
from builder_service.transformer import build_graph
from builder_service.weights import file_bytes, layout, write
from common.manifest import GRAPH_PATH, WEIGHTS_PATH, Architecture, Rope
from common.spec import ModelSpec, Precision
from common.window import Geometry


def export(  # noqa: PLR0917 - the order is that of a build's stages
    checkpoint: Checkpoint,
    architecture: Architecture,
    rope: Rope,
    spec: ModelSpec,
    out: Path,
    progress: Callable[[float], None],
) -> None:
    """Write `out`/model.onnx and `out`/weights.bin; `progress` gets the share done, from 0 to 1.

    Raises InvalidArgument: what `read_llama`, `check_geometry` and `check_tensors` raise, and CHECKPOINT_INVALID for
    weights that are not finite or end too early.
    """
    llama = read_llama(checkpoint.config, spec.options.ignore_config_fields)
    assert llama.architecture == architecture, (llama.architecture, architecture)
    assert 2 * len(rope.inverse_frequencies) == architecture.head_dim, rope
    cache = spec.cache
    geometry = Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, cache.max_slots)
    check_geometry(architecture, geometry)
    check_tensors(checkpoint, llama)
    graph = build_graph(llama, geometry, spec.precision)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(graph, out / GRAPH_PATH, architecture.family)
    write(graph.groups, checkpoint, out / WEIGHTS_PATH, progress)


def weight_bytes(llama: Llama, geometry: Geometry, precision: Precision) -> int:
    """Size of `weights.bin`, exactly, without reading a weight."""
    return file_bytes(build_graph(llama, geometry, precision).groups)


def _write_graph(graph: Graph, path: Path, name: str) -> None:
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    external = [describe(weight, WEIGHTS_PATH, offsets[weight.name]) for weight in weights]
    path.write_bytes(graph.model(name, external).SerializeToString(deterministic=True))
