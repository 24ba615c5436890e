"""From a checkpoint folder to an engine in one call, without services."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.graph.engine_weights import EngineWeights
from builder_service.model.model import check_geometry
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.export import write_model, write_stand_in
from builder_service.verify.listen import Evidence, hear, trace
from builder_service.verify.probe import Probe
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import GRAPH_PATH, STAND_IN_PATH
from common.spec.model_spec import PLAN_TARGETS, Precision, Target
from common.spec.target_options import INT4_BLOCK
from common.window import Geometry


def build_engine(
    folder: Path,
    geometry: Geometry,
    precision: str = "fp32",
    *,
    threads: int = 1,
    target: Target = Target.ONNXRUNTIME,
    int4_block: int = INT4_BLOCK,
    narrow_cache: bool = False,
) -> OnnxRuntimeEngine:
    """Export the checkpoint in `folder` to a folder beside it, named by geometry and precision, and load it.

    For TensorRT, what is loaded stands in for its graph on the CPU.
    """
    out = export_graph(folder, geometry, precision, target, int4_block=int4_block, narrow_cache=narrow_cache)
    model = read_model(open_checkpoint(folder).config)
    rope = read_rope(model, geometry)
    path = GRAPH_PATH if target is Target.ONNXRUNTIME else STAND_IN_PATH
    return OnnxRuntimeEngine(out / path, model.architecture, rope, geometry, threads=threads)


def gather(
    folder: Path,
    geometry: Geometry,
    precision: str = "fp32",
    target: Target = Target.ONNXRUNTIME,
    *,
    int4_block: int = INT4_BLOCK,
    narrow_cache: bool = False,
) -> Evidence:
    """What VERIFY is told of the engine that `build_engine` makes of the same arguments, and for ONNX Runtime of its
    probe.
    """
    out = export_graph(folder, geometry, precision, target, int4_block=int4_block, narrow_cache=narrow_cache)
    model = read_model(open_checkpoint(folder).config)
    with closing(
        build_engine(folder, geometry, precision, target=target, int4_block=int4_block, narrow_cache=narrow_cache)
    ) as engine:
        evidence = hear(engine)
    if target is not Target.ONNXRUNTIME:
        return replace(evidence, weights=EngineWeights(out / GRAPH_PATH, model))
    with closing(Probe(out / GRAPH_PATH, model, read_rope(model, geometry), geometry)) as probe:
        return trace(evidence, probe)


def export_graph(
    folder: Path,
    geometry: Geometry,
    precision: str = "fp32",
    target: Target = Target.ONNXRUNTIME,
    *,
    int4_block: int = INT4_BLOCK,
    narrow_cache: bool = False,
) -> Path:
    """The folder of the exported graph; made once."""
    g = geometry
    out = folder / f"engine-{g.sinks}-{g.window}-{g.chunk}-{g.slots}-{precision}-{target}-{int4_block}"
    out = out.with_name(f"{out.name}-narrow") if narrow_cache else out
    if not (out / GRAPH_PATH).exists():
        checkpoint = open_checkpoint(folder)
        model = read_model(checkpoint.config)
        check_geometry(model.architecture, geometry)
        tensors = ModelTensors(checkpoint.tensors, model)
        tensors.check()
        weight_format = WeightFormat(
            Precision(precision), int4_block, on_gpu=target in PLAN_TARGETS, narrow_cache=narrow_cache
        )
        write_model(model, tensors, geometry, weight_format, out, lambda _: None, target=target)
        if target is Target.TENSORRT:
            write_stand_in(model, geometry, weight_format, out)
    return out
