"""VERIFY: run the engine against the reference."""

from __future__ import annotations

from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.queue.build import Stage
from builder_service.verify.verify import verify
from common.engine.engine import Engine


def verify_engine(order: Order, plan: Plan, engine: Engine | None, parent: Parent) -> dict[str, float]:
    """The whole stage: compare the engine with the reference, and close it.

    An engine that is not loaded here is not verified.
    """
    parent.progress(Stage.VERIFY, 0.0)
    if engine is None:
        return {}
    try:
        figures = verify(
            engine,
            plan.tensors,
            plan.model,
            plan.rope,
            plan.geometry,
            WeightFormat.from_spec(order.spec),
            lambda done: parent.progress(Stage.VERIFY, done),
        )
    finally:
        engine.close()
    parent.log("verified: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    return figures
