"""From a model's tensors to an engine's files: `model.onnx` and `weights.bin` beside it.

The graph is made first, from shapes alone; then the weights stream through memory a matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.emulate_half import widen
from builder_service.graph.graph import Graph, describe
from builder_service.graph.half_precision import narrow
from builder_service.graph.lowering import lower
from builder_service.graph.transformer import build_graph
from builder_service.graph.weights import file_bytes, layout, write
from builder_service.model.model import Model
from builder_service.tensorrt.parser_rules import check_rules
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.spec.model_spec import INT4_BLOCK, PRECISIONS, Precision, Target
from common.window import Geometry

STAND_IN_PATH = "stand-in.onnx"


def export(  # noqa: PLR0917 - the order is that of a build's stages
    model: Model,
    tensors: Tensors,
    geometry: Geometry,
    precision: Precision,
    out: Path,
    progress: Callable[[float], None],
    *,
    target: Target = Target.ONNXRUNTIME,
    int4_block: int = INT4_BLOCK,
) -> None:
    """Write `out`/model.onnx and `out`/weights.bin; `progress` gets the share done, from 0 to 1.

    Raises InvalidArgument (CHECKPOINT_INVALID) for weights that are not finite, end too early or do not fit the
    precision, and Internal for a graph that is not what TensorRT documents.
    """
    graph = engine_graph(model, geometry, precision, target, int4_block)
    onnx_model = _onnx_model(graph, model.architecture.family)
    if target is Target.TENSORRT:
        check_rules(onnx_model)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(onnx_model, out / GRAPH_PATH)
    write(graph.groups, tensors, out / WEIGHTS_PATH, progress)


def write_stand_in(model: Model, geometry: Geometry, precision: Precision, out: Path) -> Path:
    """Write a graph that computes on ONNX Runtime's CPU what TensorRT's does, beside the weights it shares with it.

    Its inputs and outputs are those of a graph for ONNX Runtime, in float32.
    """
    graph = widen(engine_graph(model, geometry, precision, Target.TENSORRT))
    _write_graph(_onnx_model(graph, model.architecture.family), out / STAND_IN_PATH)
    return out / STAND_IN_PATH


def write_resized(
    model: Model, geometry: Geometry, precision: Precision, out: Path, *, int4_block: int = INT4_BLOCK
) -> Path:
    """Write `out`/model.onnx alone, for ONNX Runtime: weights do not depend on the cache, and may come from elsewhere.

    Who puts them beside it answers for their being those of the same model, in the same precision, by this release.
    """
    graph = engine_graph(model, geometry, precision, Target.ONNXRUNTIME, int4_block)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(_onnx_model(graph, model.architecture.family), out / GRAPH_PATH)
    return out / GRAPH_PATH


def weight_bytes(
    model: Model,
    geometry: Geometry,
    precision: Precision,
    *,
    target: Target = Target.ONNXRUNTIME,
    int4_block: int = INT4_BLOCK,
) -> int:
    """Size of `weights.bin`, exactly, without reading a weight."""
    return file_bytes(engine_graph(model, geometry, precision, target, int4_block).groups)


def engine_graph(
    model: Model, geometry: Geometry, precision: Precision, target: Target, int4_block: int = INT4_BLOCK
) -> Graph:
    """The graph as the target takes it."""
    assert precision in PRECISIONS[target], (precision, target)
    if target is Target.ONNXRUNTIME:
        return build_graph(model, geometry, precision, int4_block=int4_block)
    return narrow(lower(build_graph(model, geometry, Precision.FP32, value_columns=False)), precision)


def _onnx_model(graph: Graph, name: str) -> onnx.ModelProto:
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    return graph.model(name, [describe(weight, WEIGHTS_PATH, offsets[weight.name]) for weight in weights])


def _write_graph(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
