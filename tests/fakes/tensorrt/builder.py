"""The half of the fake TensorRT that compiles: parser, builder, plans."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import onnx

from common.spec.manifest import STAND_IN_PATH
from tests.fakes.tensorrt.types import (
    BuilderFlag,
    DataType,
    Dims,
    HardwareCompatibilityLevel,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    __version__,
)

MAGIC = b"FAKEPLAN"
CACHE_MAGIC = b"FAKECACHE"
_OF_ONNX = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT64: DataType.INT64,
}


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002 - TensorRT's names
        assert all(low <= best <= high for low, best, high in zip(min, opt, max, strict=True)), (min, opt, max)
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.data)


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: IProgressMonitor | None = None
        self.flags = {BuilderFlag.TF32}
        self.pools: dict[MemoryPoolType, int] = {}
        self.profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        known = not serialized_timing_cache or serialized_timing_cache.startswith(CACHE_MAGIC)
        return ITimingCache(serialized_timing_cache or CACHE_MAGIC) if known else None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class ILayer:
    def __init__(self, kind: str) -> None:
        self.type = SimpleNamespace(name=kind)


class INetworkDefinition:
    """A layer for each node, named as the node's operator."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.graph: onnx.ModelProto | None = None
        self.executed: onnx.ModelProto | None = None

    def __len__(self) -> int:
        return len(self.graph.graph.node) if self.graph is not None else 0

    def __getitem__(self, index: int) -> ILayer:
        assert self.graph is not None
        return ILayer(self.graph.graph.node[index].op_type)


class ParserError:
    def __init__(self, desc: str, node_name: str = "", node_operator: str = "") -> None:
        self._words = desc, node_name, node_operator

    def desc(self) -> str:
        return self._words[0]

    def node_name(self) -> str:
        return self._words[1]

    def node_operator(self) -> str:
        return self._words[2]


class OnnxParser:
    refused: frozenset[str] = frozenset()
    """Operators that it does not know."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    def parse_from_file(self, model: str) -> bool:
        path = Path(model)
        graph = onnx.load(path)
        self._errors = [
            ParserError("no importer registered for the operator", node.name, node.op_type)
            for node in graph.graph.node
            if node.op_type in self.refused
        ]
        stand_in = path.with_name(STAND_IN_PATH)
        self._network.graph = graph
        self._network.executed = onnx.load(stand_in) if stand_in.exists() else graph
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class Builder:
    configs: ClassVar[list[IBuilderConfig]] = []
    """Of all builders, for tests to look at."""
    fails: str | None = None
    """What the next build fails with."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        self.configs.append(IBuilderConfig())
        return self.configs[-1]

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if (why := self.fails or self._refusal(network, config)) or not self._worked(config.progress_monitor):
            self._logger.log(ILogger.Severity.ERROR, why or "the build was cancelled")
            return None
        assert network.executed is not None
        if (cache := config.get_timing_cache()) is not None:
            cache.data += b"+timing"
        head = json.dumps(self._header(network, config)).encode()
        return IHostMemory(MAGIC + len(head).to_bytes(8, "little") + head + network.executed.SerializeToString())

    def _refusal(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        if not network.flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            return "the network is not strongly typed"
        for name, _, dims in _ports(network.graph, "input"):
            for profile in config.profiles:
                if -1 not in dims:
                    continue
                if name not in profile.shapes:
                    return f"{name} has no shape in a profile"
                for shape in profile.shapes[name]:
                    if [low for low, dim in zip(shape, dims, strict=True) if dim not in (-1, low)]:
                        return f"{name} of {dims} has {shape} in a profile"
        return ""

    def _worked(self, monitor: IProgressMonitor | None) -> bool:
        if monitor is None:
            return True
        going = []
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            inner = f"Tactics {step}"
            monitor.phase_start(inner, "Building", 4)
            going += [monitor.step_complete(inner, k) for k in range(4)]
            monitor.phase_finish(inner)
            going.append(monitor.step_complete("Building", step))
        monitor.phase_finish("Building")
        return all(going)

    def _header(self, network: INetworkDefinition, config: IBuilderConfig) -> dict[str, Any]:
        return {
            "version": __version__,
            "inputs": _ports(network.graph, "input"),
            "outputs": _ports(network.graph, "output"),
            "profiles": [profile.shapes for profile in config.profiles],
        }


def _ports(model: onnx.ModelProto | None, kind: str) -> list[tuple[str, str, list[int]]]:
    assert model is not None, "nothing was parsed"
    return [
        (
            port.name,
            _OF_ONNX[port.type.tensor_type.elem_type].name,
            [dim.dim_value or -1 for dim in port.type.tensor_type.shape.dim],
        )
        for port in getattr(model.graph, kind)
    ]
