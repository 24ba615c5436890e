"""From a lowered graph to a TensorRT plan: parsed, given its profiles, compiled. TensorRT 10.15 and newer, and 11.

Types are strong and come from the graph. Compiling takes minutes, needs the GPU, and reports progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import tensorrt as trt

from builder_service.tensorrt.progress import CompileProgress
from common.engine.tensorrt_log import TensorRtLog
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import HardwareCompatibility, Precision, TensorRtOptions
from common.window import Geometry

_ERRORS_SHOWN = 3
_COMPATIBILITY = {
    HardwareCompatibility.NONE: trt.HardwareCompatibilityLevel.NONE,
    HardwareCompatibility.AMPERE_PLUS: trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    HardwareCompatibility.SAME_COMPUTE_CAPABILITY: trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorRtCompiler:
    """Compiles plans. `progress` gets the share done, from 0 to 1; if it raises, the compilation is cancelled and the
    exception raised again.
    """

    geometry: Geometry
    precision: Precision
    options: TensorRtOptions
    progress: Callable[[float], None]
    write_log: Callable[[str], None]

    def compile(self, graph: Path, plan: Path, timing_cache: bytes) -> bytes:
        """Write `plan` from `graph` and return the timing cache with what was learned.

        Raises FailedPrecondition (TOOLCHAIN_FAILED): for what the parser does not take with node and operator, for
        all else with TensorRT's last words.
        """
        log = TensorRtLog(self.write_log)
        builder = trt.Builder(log)
        # Version 10 has to be told that types are strong; 11 knows no other.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise _parser_failed(parser, log)
        config = self._config(builder, graph)
        self._use_timing_cache(config, timing_cache)
        monitor = _Monitor(self.progress)
        config.progress_monitor = monitor
        memory = builder.build_serialized_network(network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if memory is None:
            raise _failed(f"TensorRT {trt.__version__} does not compile the graph: {log.last_words}")
        plan.write_bytes(memoryview(memory))
        return _timing_cache(config)

    def _config(self, builder: trt.Builder, graph: Path) -> trt.IBuilderConfig:
        options, config = self.options, builder.create_builder_config()
        config.builder_optimization_level = options.optimization_level
        config.hardware_compatibility_level = _COMPATIBILITY[options.hardware_compatibility]
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
        if options.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.STRICT_NANS)  # a slot's NaN has to reach its logits
        if self.precision is Precision.FP32:
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and has 10 bits of mantissa
        for batch, step in _profiles(self.geometry):
            config.add_optimization_profile(_profile(builder, graph, batch, step))
        return config

    def _use_timing_cache(self, config: trt.IBuilderConfig, timing_cache: bytes) -> None:
        """Use the cache if TensorRT accepts it, else an empty one."""
        for data in dict.fromkeys((timing_cache, b"")):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            self.write_log("TensorRT does not take the timing cache; it starts with an empty one")


class _Monitor(trt.IProgressMonitor):
    """Receives TensorRT's phases. No exception may pass through TensorRT: it is kept, and ends the compilation."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._phases = CompileProgress()
        self.failure: Exception | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._tell(self._phases.start(phase_name, parent_phase, num_steps))

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._tell(self._phases.step(phase_name, step))
        return self.failure is None

    def phase_finish(self, phase_name: str) -> None:
        self._tell(self._phases.finish(phase_name))

    def _tell(self, share: float) -> None:
        if self.failure is None:
            try:
                self._progress(share)
            except Exception as error:  # noqa: BLE001 - it is raised again when TensorRT has returned
                self.failure = error


def _profiles(geometry: Geometry) -> Iterator[tuple[Shape, Shape]]:
    """Least, best and most slots and tokens: one token for as many slots as there are, and a chunk for one."""
    slots, chunk = geometry.slots, geometry.chunk
    yield (1, slots, slots), (1, 1, 1)
    yield (1, 1, slots), (1, chunk, chunk)


def _profile(builder: trt.Builder, graph: Path, batch: Shape, step: Shape) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for port in onnx.load(graph, load_external_data=False).graph.input:
        extents = ({"batch": b, "step": s, "outputs": b} for b, s in zip(batch, step, strict=True))
        low, best, high = (_shape(port, each) for each in extents)
        profile.set_shape(port.name, trt.Dims(low), trt.Dims(best), trt.Dims(high))
    return profile


def _shape(port: onnx.ValueInfoProto, extents: dict[str, int]) -> Shape:
    return tuple(extents.get(dim.dim_param, dim.dim_value) for dim in port.type.tensor_type.shape.dim)


def _timing_cache(config: trt.IBuilderConfig) -> bytes:
    cache = config.get_timing_cache()
    memory = cache.serialize() if cache is not None else None
    return b"" if memory is None else bytes(memoryview(memory))


def _parser_failed(parser: trt.OnnxParser, log: TensorRtLog) -> FailedPrecondition:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = [f"node {e.node_name() or '?'} ({e.node_operator() or '?'}): {e.desc()}" for e in errors[:_ERRORS_SHOWN]]
    what = "; ".join(said) or log.last_words
    failure = _failed(f"the ONNX parser of TensorRT {trt.__version__} does not take the graph: {what}")
    if errors:
        failure.metadata |= {"node": errors[0].node_name(), "operator": errors[0].node_operator()}
    return failure


def _failed(message: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.TOOLCHAIN_FAILED, message)
