"""VERIFY: run the engine, and compare it with the reference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.checkpoint import Checkpoint, Tensors
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.graph.engine_weights import EngineWeights
from builder_service.model.weight_format import ROUNDED
from builder_service.pipeline.compile import Compiled
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from builder_service.verify.golden import GoldenRecorder
from builder_service.verify.listen import hear, trace
from builder_service.verify.probe import Probe
from builder_service.verify.second.adapter import SecondAdapter
from builder_service.verify.second.packed import SecondPacked
from builder_service.verify.second.reading import SecondReading
from builder_service.verify.verify import verify
from common.spec.manifest import GOLDEN_PATH, GRAPH_PATH
from common.spec.model_spec import Target

HEARD = 0.2
"""Of the stage, what the engine itself does."""


def verify_engine(
    order: Order, source: ResolvedSource, plan: Plan, compiled: Compiled | None, parent: Parent
) -> dict[str, float]:
    """The whole stage: compare the engine with the reference, write its golden streams, and close it.

    An engine that is not loaded here is not verified.
    """
    parent.progress(Stage.VERIFY, 0.0)
    if compiled is None:
        return {}
    with closing(compiled.engine) as engine:
        evidence = hear(engine)
    if order.spec.target is Target.ONNXRUNTIME:
        with closing(Probe(plan.out / GRAPH_PATH, plan.model, plan.rope, plan.geometry)) as probe:
            evidence = trace(evidence, probe)
    elif plan.weight_format.precision in ROUNDED:
        evidence = replace(evidence, weights=EngineWeights(plan.out / GRAPH_PATH, plan.model))
    parent.progress(Stage.VERIFY, HEARD)
    recorder = GoldenRecorder(evidence, plan.model, plan.weight_format)
    figures = verify(
        evidence,
        _read_again(source.checkpoint, plan),
        plan.model,
        plan.rope,
        plan.weight_format,
        lambda done: parent.progress(Stage.VERIFY, HEARD + (1 - HEARD) * done),
        recorder,
    )
    (plan.out / GOLDEN_PATH).write_bytes(recorder.written().to_bytes())
    told = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    parent.log(f"verified: on {compiled.runs_on}, {told}")
    return figures


def _read_again(checkpoint: Checkpoint, plan: Plan) -> Tensors:
    """The tensors by another way than the build's."""
    if isinstance(checkpoint, AdaptedCheckpoint):
        return SecondAdapter(_read_again(checkpoint.base, plan), checkpoint.adapter.folder, plan.model)
    if isinstance(checkpoint, FolderCheckpoint):
        reading = SecondPacked if checkpoint.packing else SecondReading
        return reading(checkpoint.folder, plan.model)
    from builder_service.verify.second.gguf import SecondGguf  # noqa: PLC0415 - half a second that most need not wait

    return SecondGguf(checkpoint.weight_files, plan.model)
