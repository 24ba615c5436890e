"""What TensorRT-RTX has besides TensorRT's own names: the cache of what is compiled where a plan is loaded."""

from __future__ import annotations

from typing import Any

from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.tensorrt import IExecutionContext
from tests.fakes.tensorrt.types import IHostMemory

MAGIC = b"JUSTINTIME"


class IRuntimeCache:
    accepts = True
    """Whether a cache is of this GPU, driver and version."""

    def __init__(self) -> None:
        self.data = b""

    def deserialize(self, blob: Any) -> bool:
        taken = self.accepts and bytes(blob).startswith(MAGIC)
        self.data = bytes(blob) if taken else self.data
        return taken

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.data)


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self.cache = cache
        return True


class ICudaEngine(fake_tensorrt.ICudaEngine):
    compiled = 0
    """How often a context had to compile, in all engines."""

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        assert runtime_config is not None
        assert runtime_config.cache is not None, "it would compile at every load"
        kernel = b"-kernels of a context"
        if runtime_config.cache.data.count(kernel) < 2:  # one for each of the profiles
            ICudaEngine.compiled += 1
            runtime_config.cache.data = (runtime_config.cache.data or MAGIC) + kernel
        return super().create_execution_context()
