"""VERIFY: run the engine, and compare it with the reference."""

from __future__ import annotations

from contextlib import closing

from builder_service.checkpoint.checkpoint import Checkpoint, Tensors
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from builder_service.verify.listen import hear, trace
from builder_service.verify.probe import Probe
from builder_service.verify.second_reading import SecondReading
from builder_service.verify.verify import verify
from common.engine.engine import Engine
from common.spec.manifest import GRAPH_PATH
from common.spec.model_spec import Target

HEARD = 0.2
"""Of the stage, what the engine itself does."""


def verify_engine(
    order: Order, source: ResolvedSource, plan: Plan, engine: Engine | None, parent: Parent
) -> dict[str, float]:
    """The whole stage: compare the engine with the reference, and close it.

    An engine that is not loaded here is not verified.
    """
    parent.progress(Stage.VERIFY, 0.0)
    if engine is None:
        return {}
    with closing(engine):
        evidence = hear(engine)
    if order.spec.target is Target.ONNXRUNTIME:
        with closing(Probe(plan.out / GRAPH_PATH, plan.architecture, plan.rope, plan.geometry)) as probe:
            evidence = trace(evidence, probe)
    parent.progress(Stage.VERIFY, HEARD)
    figures = verify(
        evidence,
        _read_again(source.checkpoint, plan),
        plan.model,
        plan.rope,
        plan.weight_format,
        lambda done: parent.progress(Stage.VERIFY, HEARD + (1 - HEARD) * done),
    )
    parent.log("verified: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    return figures


def _read_again(checkpoint: Checkpoint, plan: Plan) -> Tensors:
    """The tensors by another way than the build's."""
    if isinstance(checkpoint, FolderCheckpoint):
        return SecondReading(checkpoint.folder, plan.model)
    from builder_service.verify.second_gguf import SecondGguf  # noqa: PLC0415 - half a second that most need not wait

    return SecondGguf(checkpoint.weight_files, plan.model)
