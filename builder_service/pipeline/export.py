"""EXPORT and QUANTIZE: write `model.onnx` and `weights.bin` from a model's tensors.

The graph is made first, from shapes alone; then the weights stream through memory a matrix at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from tokenizers import Tokenizer

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.families.registry import read_rope
from builder_service.graph.graph import Graph, describe
from builder_service.graph.half_precision import narrow
from builder_service.graph.lowering import lower
from builder_service.graph.transformer import build_graph
from builder_service.graph.weights import file_bytes, layout, write
from builder_service.graph.widening import widen
from builder_service.model.model import Model
from builder_service.model.weight_format import ROUNDED, WeightFormat
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.quantization.calibrated import round_model
from builder_service.quantization.text import text_tokens
from builder_service.queue.build import Stage
from builder_service.tensorrt.parser_rules import check_rules
from common.spec.manifest import GRAPH_PATH, STAND_IN_PATH, TOKENIZER_PATH, WEIGHTS_PATH
from common.spec.model_spec import PLAN_TARGETS, PRECISIONS, Precision, Target
from common.window import Geometry

_ROUNDING = 0.9
"""Of QUANTIZE, what that takes; the rest is writing."""


def export_engine(order: Order, plan: Plan, parent: Parent) -> None:
    """Both stages: write the graph, then the weights in the spec's precision, then the tokenizer.

    TensorRT-LLM reads the checkpoint itself: an engine for it has the tokenizer only.
    """
    parent.progress(Stage.EXPORT, 0.0)
    plan.out.mkdir(parents=True, exist_ok=True)
    if order.spec.target is not Target.TENSORRT_LLM:
        _export_model(order, plan, parent)
    if plan.text.tokenizer_json is not None:
        (plan.out / TOKENIZER_PATH).write_bytes(plan.text.tokenizer_json)


def _export_model(order: Order, plan: Plan, parent: Parent) -> None:
    spec, weight_format = order.spec, plan.weight_format
    size_bytes = weight_bytes(plan.model, plan.geometry, weight_format, spec.target)
    # The graph is whole before the first weight is written, and that is the first that the export reports.
    write_model(
        plan.model,
        plan.tensors,
        plan.geometry,
        weight_format,
        plan.out,
        lambda done: parent.progress(Stage.QUANTIZE, done, size_bytes),
        target=spec.target,
        tokenizer=plan.tokenizer,
    )


def write_model(  # noqa: PLR0917 - the order is that of a build's stages
    model: Model,
    tensors: Tensors,
    geometry: Geometry,
    weight_format: WeightFormat,
    out: Path,
    progress: Callable[[float], None],
    *,
    target: Target = Target.ONNXRUNTIME,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write `out`/model.onnx and `out`/weights.bin; `progress` gets the share done, from 0 to 1.

    `tokenizer` reads the text that int8 and int4 are rounded by.

    Raises InvalidArgument (CHECKPOINT_INVALID) for weights that are not finite, end too early or do not fit the
    precision, and Internal for a graph that is not what TensorRT documents.
    """
    graph = engine_graph(model, geometry, weight_format, target)
    onnx_model = to_onnx(graph, model.architecture.family)
    if target in PLAN_TARGETS:
        check_rules(onnx_model)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(onnx_model, out / GRAPH_PATH)
    if weight_format.precision not in ROUNDED:
        write(graph.groups, tensors, out / WEIGHTS_PATH, progress)
        return
    with tempfile.TemporaryDirectory(prefix=".rounded-", dir=out) as scratch:
        tokens, rope = text_tokens(tokenizer, model.architecture.vocabulary), read_rope(model, geometry)
        rounded = round_model(
            tensors, model, rope, weight_format, tokens, Path(scratch), lambda done: progress(_ROUNDING * done)
        )
        write(graph.groups, rounded, out / WEIGHTS_PATH, lambda done: progress(_ROUNDING + (1 - _ROUNDING) * done))


def write_stand_in(model: Model, geometry: Geometry, weight_format: WeightFormat, out: Path) -> Path:
    """Write `out`/stand-in.onnx, which computes on ONNX Runtime's CPU what the graph of a GPU target does, with the
    weights that it shares with it.

    Its inputs and outputs are those of a graph for ONNX Runtime, in float32.
    """
    graph = widen(engine_graph(model, geometry, weight_format, Target.TENSORRT))
    _write_graph(to_onnx(graph, model.architecture.family), out / STAND_IN_PATH)
    return out / STAND_IN_PATH


def write_resized(model: Model, geometry: Geometry, weight_format: WeightFormat, out: Path) -> Path:
    """Write `out`/model.onnx without weights, for ONNX Runtime.

    Weights do not depend on the cache, so those of another engine can be used. The caller has to make sure that they
    are of the same model, in the same format, by this release.
    """
    graph = engine_graph(model, geometry, weight_format, Target.ONNXRUNTIME)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(to_onnx(graph, model.architecture.family), out / GRAPH_PATH)
    return out / GRAPH_PATH


def weight_bytes(
    model: Model, geometry: Geometry, weight_format: WeightFormat, target: Target = Target.ONNXRUNTIME
) -> int:
    """Size of `weights.bin`, exactly, without reading a weight."""
    return file_bytes(engine_graph(model, geometry, weight_format, target).groups)


def engine_graph(model: Model, geometry: Geometry, weight_format: WeightFormat, target: Target) -> Graph:
    """The graph as the target takes it."""
    precision = weight_format.precision
    assert precision in PRECISIONS[target], (precision, target)
    assert precision not in ROUNDED or weight_format.on_gpu is (target in PLAN_TARGETS), target
    if target is Target.ONNXRUNTIME:
        return build_graph(model, geometry, weight_format)
    held = weight_format if precision in ROUNDED else WeightFormat(Precision.FP32)
    return narrow(lower(build_graph(model, geometry, held, value_columns=False)), weight_format.arithmetic)


def to_onnx(graph: Graph, name: str) -> onnx.ModelProto:
    """The graph as ONNX, with its weights in `weights.bin`."""
    offsets = layout(graph.groups)
    weights = [weight for group in graph.groups for weight in group.weights]
    return graph.model(name, [describe(weight, WEIGHTS_PATH, offsets[weight.name]) for weight in weights])


def _write_graph(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
