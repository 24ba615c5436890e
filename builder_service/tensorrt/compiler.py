"""From a lowered graph to a plan of TensorRT, 10.15 and newer, and 11. Takes minutes, and needs the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorrt as trt

from builder_service.tensorrt.network import Monitor, Network
from common.engine.tensorrt.library import TENSORRT
from common.spec.model_spec import Precision
from common.spec.target_options import HardwareCompatibility, TensorRtOptions
from common.window import Geometry

_COMPATIBILITY = {
    HardwareCompatibility.NONE: trt.HardwareCompatibilityLevel.NONE,
    HardwareCompatibility.AMPERE_PLUS: trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    HardwareCompatibility.SAME_COMPUTE_CAPABILITY: trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
}


@dataclass(frozen=True)
class Compiled:
    """What a compilation leaves beside the plan."""

    layers: dict[str, int]
    """Of the network, by kind."""
    timing_cache: bytes
    """With what was learned."""


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

    def compile(self, graph: Path, plan: Path, timing_cache: bytes) -> Compiled:
        """Write `plan` from `graph`.

        Raises FailedPrecondition (TOOLCHAIN_FAILED): for what the parser does not take with node and operator, for
        all else with TensorRT's last words.
        """
        network = Network(graph, TENSORRT, self.write_log)
        config = self._config(network)
        self._use_timing_cache(config, timing_cache)
        monitor = Monitor(self.progress)
        config.progress_monitor = monitor
        memory = network.builder.build_serialized_network(network.network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if memory is None:
            raise network.not_compiled()
        plan.write_bytes(memoryview(memory))
        return Compiled(network.layers, _timing_cache(config))

    def _config(self, network: Network) -> trt.IBuilderConfig:
        options, config = self.options, network.config(self.geometry, self.precision)
        config.builder_optimization_level = options.optimization_level
        config.hardware_compatibility_level = _COMPATIBILITY[options.hardware_compatibility]
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
        if options.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        return config

    def _use_timing_cache(self, config: trt.IBuilderConfig, timing_cache: bytes) -> None:
        """Use the cache if TensorRT accepts it, else an empty one."""
        for data in dict.fromkeys((timing_cache, b"")):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            self.write_log("TensorRT does not take the timing cache; it starts with an empty one")


def _timing_cache(config: trt.IBuilderConfig) -> bytes:
    cache = config.get_timing_cache()
    memory = cache.serialize() if cache is not None else None
    return b"" if memory is None else bytes(memoryview(memory))
