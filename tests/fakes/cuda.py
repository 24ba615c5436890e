"""CUDA's runtime over host memory, as far as `common.engine.cuda_device` calls it, and stricter than the real one.

Memory comes as garbage. Copies and kernels run when their stream is waited for and not before, so that whoever reads
or changes host memory too early notices. An address outside of what is allocated fails the test.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime

Bytes = npt.NDArray[np.uint8]
GARBAGE = 0xFF  # as float32, float16 and bfloat16 it is NaN
OK = runtime.cudaError_t.cudaSuccess


class FakeCuda:
    """One GPU with `total_bytes` of memory."""

    cudaError_t = runtime.cudaError_t  # noqa: N815 - CUDA's names
    cudaMemcpyKind = runtime.cudaMemcpyKind  # noqa: N815 - CUDA's names

    def __init__(self, total_bytes: int = 1 << 30, capability: tuple[int, int] = (9, 0), driver: int = 13010) -> None:
        self.total_bytes = total_bytes
        self.capability = capability
        self.driver = driver
        self.fails: dict[str, runtime.cudaError_t] = {}
        """What the named call answers from now on."""
        self.device: dict[int, Bytes] = {}
        self.pinned: dict[int, Bytes] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self._handles = itertools.count(1000)

    @property
    def used_bytes(self) -> int:
        """Device memory that is taken."""
        return sum(len(block) for block in self.device.values())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Do `work` when its turn comes on `stream`."""
        self.streams[stream].append(work)

    def memory(self, address: int, size: int) -> Bytes:
        """Device memory at an address; fails the test where it is not allocated."""
        for start, block in self.device.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address:#x} are not allocated")

    # CUDA's own names

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._answer("cudaGetDeviceCount", 1)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._answer("cudaDriverGetVersion", self.driver)

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return self._answer("cudaRuntimeGetVersion", 13000)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        properties = runtime.cudaDeviceProp()
        properties.name = b"Fake GPU".ljust(256, b"\0")
        properties.major, properties.minor = self.capability
        assert device == 0
        return self._answer("cudaGetDeviceProperties", properties)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return self._answer("cudaMemGetInfo", self.total_bytes - self.used_bytes, self.total_bytes)

    def cudaGetErrorName(self, error: runtime.cudaError_t) -> tuple[Any, ...]:
        return OK, error.name.encode()

    def cudaGetErrorString(self, error: runtime.cudaError_t) -> tuple[Any, ...]:
        return OK, b"as the test asked"

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self.used_bytes + size > self.total_bytes:
            return runtime.cudaError_t.cudaErrorMemoryAllocation, None
        return self._answer("cudaMalloc", self._allocate(self.device, size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        del self.device[devPtr]
        return (OK,)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._answer("cudaMallocHost", self._allocate(self.pinned, size))

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        del self.pinned[ptr]
        return (OK,)

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        stream = next(self._handles)
        self.streams[stream] = []
        return self._answer("cudaStreamCreate", stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        assert not self.streams.pop(stream), "destroyed while it had work"
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        work, self.streams[stream] = self.streams[stream], []
        for each in work:
            each()
        return self._answer("cudaStreamSynchronize")

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: int) -> tuple[Any, ...]:
        return self.cudaMemset2DAsync(devPtr, count, value, count, 1, stream)

    def cudaMemset2DAsync(  # noqa: PLR0917 - CUDA's
        self, devPtr: int, pitch: int, value: int, width: int, height: int, stream: int
    ) -> tuple[Any, ...]:
        blocks = [self.memory(devPtr + k * pitch, width) for k in range(height)]

        def fill() -> None:
            for block in blocks:
                block[:] = value

        self.enqueue(stream, fill)
        return self._answer("cudaMemset2DAsync")

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: runtime.cudaMemcpyKind, stream: int
    ) -> tuple[Any, ...]:
        return self.cudaMemcpy2DAsync(dst, count, src, count, count, 1, kind, stream)

    def cudaMemcpy2DAsync(  # noqa: PLR0917 - CUDA's
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: runtime.cudaMemcpyKind,
        stream: int,
    ) -> tuple[Any, ...]:
        assert width <= min(dpitch, spitch) or height == 1, "pieces overlap"
        into = kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        for k in range(height):
            self.memory(dst + k * dpitch if into else src + k * spitch, width)

        def copy() -> None:
            for k in range(height):
                ctypes.memmove(dst + k * dpitch, src + k * spitch, width)

        self.enqueue(stream, copy)
        return self._answer("cudaMemcpy2DAsync")

    def _allocate(self, blocks: dict[int, Bytes], size: int) -> int:
        raw = np.full(size + 256, GARBAGE, np.uint8)
        start = -raw.ctypes.data % 256
        block = raw[start : start + size]
        address = block.ctypes.data
        blocks[address] = block
        return address

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        if (error := self.fails.get(name)) is not None:
            return error, *(None for _ in values)
        return OK, *values
