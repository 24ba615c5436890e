"""The process in which tests compile: TensorRT-RTX and the stand-ins of TensorRT's libraries cannot share one.

Reads jobs from stdin and writes their outcomes to stdout, both as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from builder_service.machine.cgroup import field
from builder_service.machine.memory import limit_memory
from common.engine.tensorrt.library import TENSORRT_RTX, use
from common.errors import SinkServeError
from common.spec.model_spec import Precision
from common.spec.rtx_gpus import TensorRtRtxOptions
from common.window import Geometry
from tests.rtx.process import Job, Outcome


def main() -> None:
    use(TENSORRT_RTX)
    jobs = [Job(**job) for job in json.load(sys.stdin)]
    json.dump([asdict(_done(job)) for job in jobs], sys.stdout)


def _done(job: Job) -> Outcome:
    from builder_service.tensorrt.rtx_compiler import TensorRtRtxCompiler

    graph, lines = Path(job.graph), list[str]()
    if not job.compiles:
        return Outcome(supported=_is_supported(graph))
    if job.memory_mib:
        used = field(Path("/proc/self/status"), "VmData:") * 1024
        limit_memory(used + (job.memory_mib << 20))
    compiler = TensorRtRtxCompiler(
        Geometry(**job.geometry),
        Precision(job.precision),
        TensorRtRtxOptions(compute_capabilities=tuple(job.gpus)),
        expected_s=1.0,
        progress=lambda _: None,
        write_log=lines.append,
    )
    plan = Path(job.plan) if job.plan else graph.with_name("engine.plan")
    try:
        layers = compiler.compile(graph, plan)
    except (SinkServeError, OSError, MemoryError) as error:
        return Outcome(error=f"{type(error).__name__}: {error}", log=lines)
    return Outcome(layers=layers, plan_bytes=plan.stat().st_size, log=lines)


def _is_supported(graph: Path) -> bool:
    """Whether the parser takes the whole graph. `supports_operator` says yes to more than that."""
    import tensorrt_rtx_bindings as rtx

    logger = rtx.Logger(rtx.Logger.INTERNAL_ERROR)
    builder = rtx.Builder(logger)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, logger)
    return parser.supports_model_v2(graph.read_bytes(), str(graph))


if __name__ == "__main__":
    main()
