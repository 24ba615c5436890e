"""COMPILE, for each target: make the files that a runtime loads, and load them in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from builder_service.pipeline.export import write_stand_in
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import Plan
from builder_service.pipeline.resolve import ResolvedSource
from builder_service.queue.build import Stage
from builder_service.tensorrt.timing_cache import TimingCaches
from common.engine.engine import Engine
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.engine.tensorrt.library import TENSORRT, TENSORRT_RTX, use
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import GRAPH_PATH, PLAN_PATH, REPORT_PATH, WEIGHTS_PATH
from common.spec.model_spec import Target

CPU, STAND_IN = "cpu", "cpu stand-in"
"""What an engine runs on in VERIFY. The second: a graph in its place, where its own hardware is not there."""
_COMPILED = 0.9  # of COMPILE; the rest is loading


@dataclass(frozen=True)
class Compiled:
    """What a runtime loads, made, and for VERIFY loaded."""

    engine: Engine
    """What VERIFY runs."""
    runs_on: str
    """CPU, STAND_IN, or the name of a GPU."""
    network: dict[str, int] = field(default_factory=dict)
    """Layers of the network that was compiled, by kind."""


def compile_engine(order: Order, source: ResolvedSource, plan: Plan, parent: Parent) -> Compiled | None:
    """The whole stage: make what a runtime loads, and load it for VERIFY.

    None for a target that compiles at load.
    """
    parent.progress(Stage.COMPILE, 0.0)
    compiler = _COMPILERS.get(order.spec.target)
    compiled = compiler(order, source, plan, parent) if compiler is not None else None
    parent.progress(Stage.COMPILE, 1.0)
    return compiled


def _for_onnxruntime(_order: Order, _source: ResolvedSource, plan: Plan, _parent: Parent) -> Compiled:
    """Load the graph itself."""
    return Compiled(_load_on_cpu(plan, GRAPH_PATH), CPU)


def _load_on_cpu(plan: Plan, graph: str) -> Engine:
    """Raises FailedPrecondition (TOOLCHAIN_FAILED) with ONNX Runtime's words."""
    try:
        return OnnxRuntimeEngine(plan.out / graph, plan.architecture, plan.rope, plan.geometry)
    except FailedPrecondition as error:  # it is not the machine that differs: the graph was made for this one
        raise FailedPrecondition(Reason.TOOLCHAIN_FAILED, error.message) from error


def _for_tensorrt(order: Order, source: ResolvedSource, plan: Plan, parent: Parent) -> Compiled:
    """Write a plan, and TensorRT's report on it, and load the plan. Needs the GPU that it is for."""
    use(TENSORRT)
    from builder_service.tensorrt.compiler import TensorRtCompiler  # noqa: PLC0415 - needs packages of GPU machines
    from common.engine.tensorrt.engine import TensorRtEngine  # noqa: PLC0415 - likewise

    toolchain = TensorRtCompiler(
        geometry=plan.geometry,
        precision=order.spec.precision,
        options=order.spec.options.tensorrt,
        progress=lambda done: parent.progress(Stage.COMPILE, _COMPILED * done),
        write_log=parent.log,
    )
    known = _load_timings(order, source, parent)
    compiled = toolchain.compile(plan.out / GRAPH_PATH, plan.out / PLAN_PATH, known)
    _keep_timings(order, source, compiled.timing_cache, parent)
    engine = TensorRtEngine(plan.out / PLAN_PATH, plan.architecture, plan.rope, plan.geometry)
    (plan.out / REPORT_PATH).write_text(engine.report(), encoding="utf-8")
    assert source.machine is not None
    return Compiled(engine, source.machine.gpu, compiled.layers)


def _for_tensorrt_rtx(order: Order, _source: ResolvedSource, plan: Plan, parent: Parent) -> Compiled:
    """Write a plan for GPUs that are not here. What VERIFY runs is its graph, on the CPU."""
    use(TENSORRT_RTX)
    from builder_service.tensorrt.rtx_compiler import TensorRtRtxCompiler, expected_s  # noqa: PLC0415 - of an extra

    toolchain = TensorRtRtxCompiler(
        geometry=plan.geometry,
        precision=order.spec.precision,
        options=order.spec.options.tensorrt_rtx,
        expected_s=expected_s(plan.architecture.layers, (plan.out / WEIGHTS_PATH).stat().st_size),
        progress=lambda done: parent.progress(Stage.COMPILE, _COMPILED * done),
        write_log=parent.log,
    )
    layers = toolchain.compile(plan.out / GRAPH_PATH, plan.out / PLAN_PATH)
    stand_in = write_stand_in(plan.model, plan.geometry, plan.weight_format, plan.out)
    return Compiled(_load_on_cpu(plan, stand_in.name), STAND_IN, layers)


_COMPILERS: Mapping[Target, Callable[[Order, ResolvedSource, Plan, Parent], Compiled]] = {
    Target.ONNXRUNTIME: _for_onnxruntime,
    Target.TENSORRT: _for_tensorrt,
    Target.TENSORRT_RTX: _for_tensorrt_rtx,
}


def _load_timings(order: Order, source: ResolvedSource, parent: Parent) -> bytes:
    try:
        return TimingCaches(order.store_url, order.store_timeout_s).load(*_machine_key(source))
    except Exception as error:  # noqa: BLE001 - a store's own errors; a build can do without
        parent.log(f"the timing cache cannot be read, so more has to be measured: {error}")
        return b""


def _keep_timings(order: Order, source: ResolvedSource, data: bytes, parent: Parent) -> None:
    try:
        TimingCaches(order.store_url, order.store_timeout_s).save(*_machine_key(source), data)
    except Exception as error:  # noqa: BLE001 - a store's own errors; only later builds miss it
        parent.log(f"the timing cache cannot be kept, so later builds measure again: {error}")


def _machine_key(source: ResolvedSource) -> tuple[str, str]:
    """GPU architecture and version of TensorRT, such as sm_90 and 11.4.0.106."""
    assert source.machine is not None
    return f"sm_{source.machine.compute_capability.replace('.', '')}", source.machine.tensorrt_version
