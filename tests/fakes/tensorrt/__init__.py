"""TensorRT, as far as we call it, over ONNX Runtime's CPU and the memory of a `FakeCuda`.

What is compiled is kept in the plan and executed: the stand-in that lies beside the graph, or the graph itself where
it is float32. Everything that TensorRT checks and a mistake of ours could break is checked: shapes against profiles,
alignment, names, the types and the memory of caches. Names and signatures are those of the real bindings: see
`tests/unit/typings`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tests.fakes.cuda import FakeCuda
from tests.fakes.tensorrt.builder import (
    CACHE_MAGIC,
    MAGIC,
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITimingCache,
    OnnxParser,
    ParserError,
)
from tests.fakes.tensorrt.types import (
    BuilderFlag,
    DataType,
    Dims,
    HardwareCompatibilityLevel,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
    __version__,
)

__all__ = [
    "CACHE_MAGIC",
    "MAGIC",
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "__version__",
    "cuda",
]

cuda: FakeCuda = FakeCuda()
"""The GPU; a test puts its own here."""


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
