"""TensorRT, as far as we call it, over ONNX Runtime's CPU and the memory of a `FakeCuda`.

What is compiled is kept in the plan and executed: the stand-in that lies beside the graph, or the graph itself where
it is float32. Everything that TensorRT checks and a mistake of ours could break is checked: shapes against profiles,
alignment, names, the types and the memory of caches. Names and signatures are those of the real bindings: see
`tests/unit/typings`.
"""

from __future__ import annotations

import json
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from tests.fakes.cuda import FakeCuda
from tests.samples.engines import STAND_IN_PATH

__version__ = "11.4.0.106"
MAGIC = b"FAKEPLAN"
CACHE_MAGIC = b"FAKECACHE"
cuda: FakeCuda = FakeCuda()
"""The GPU; a test puts its own here."""


class DataType(Enum):
    FLOAT = np.dtype(np.float32)
    HALF = np.dtype(np.float16)
    BF16 = np.dtype(ml_dtypes.bfloat16)
    INT64 = np.dtype(np.int64)


_OF_ONNX = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT64: DataType.INT64,
}


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(Enum):
    WORKSPACE = 0


class BuilderFlag(Enum):
    TF32 = 7
    VERSION_COMPATIBLE = 13
    STRICT_NANS = 20


class HardwareCompatibilityLevel(Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class ProfilingVerbosity(Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(Enum):
    ONELINE = 0
    JSON = 1


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        pass

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class Dims(tuple[int, ...]):
    __slots__ = ()

    def __new__(cls, shape: tuple[int, ...] = ()) -> Self:
        return super().__new__(cls, shape)


class IHostMemory(bytes):
    __slots__ = ()


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


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.graph: onnx.ModelProto | None = None
        self.executed: onnx.ModelProto | None = None


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


class EngineInspector:
    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002 - TensorRT's name
        assert format is LayerInformationFormat.JSON
        return json.dumps({"Layers": ["one", "two"]})


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        data = bytes(serialized_engine)
        if not data.startswith(MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "magic tag does not match")
            return None
        end = len(MAGIC) + 8 + int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
        return ICudaEngine(json.loads(data[len(MAGIC) + 8 : end]), data[end:])


class ICudaEngine:
    in_place = True
    """Whether cache outputs share their inputs' memory."""

    def __init__(self, header: dict[str, Any], graph: bytes) -> None:
        ports: list[tuple[str, str, list[int]]] = header["inputs"] + header["outputs"]
        self.ports = {name: (DataType[kind], dims) for name, kind, dims in ports}
        self._names: list[str] = list(self.ports)
        self.inputs: list[str] = [name for name, _, _ in header["inputs"]]
        self.profiles: list[dict[str, Any]] = header["profiles"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # it copies caches, and would say so in every step
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(tuple(self.ports[name][1]))

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.ports[name][0]

    def get_aliased_input_tensor(self, name: str) -> str:
        return name.removesuffix("_out") if self.in_place and name.endswith("_out") else ""

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector()

    def create_execution_context(self) -> IExecutionContext | None:
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = self._engine.profiles[profile_index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._profile[name]
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self._engine.ports, name
        self._addresses[name] = memory
        return memory % 256 == 0

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        if set(self._addresses) != set(self._engine.ports) or self.infer_shapes():
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        cuda.enqueue(stream_handle, lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        tensors = {name: self._tensor(name, addresses[name], shape) for name, shape in shapes.items()}
        feeds = {name: _wide(tensor) for name, tensor in tensors.items()}
        names = [name for name in self._engine.ports if name not in self._engine.inputs]
        for name, value in zip(names, self._engine.session.run(names, feeds), strict=True):
            if name.endswith("_out"):
                assert addresses[name] == addresses[name.removesuffix("_out")], f"{name} is not in place"
            self._tensor(name, addresses[name], value.shape)[...] = value

    def _tensor(self, name: str, address: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        dtype: np.dtype[Any] = self._engine.ports[name][0].value
        return cuda.memory(address, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)


def _wide(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return tensor if tensor.dtype == np.int64 else tensor.astype(np.float32)


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
