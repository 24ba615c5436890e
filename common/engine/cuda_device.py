"""One NVIDIA GPU as an engine sees it: memory, and copies on one stream. The one module that knows CUDA.

Which GPU: the first of those that the process may see (CUDA_VISIBLE_DEVICES). Copies and fills are asynchronous: what
they read and write belongs to the device until `synchronize`.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from common.errors import FailedPrecondition, Internal, Reason, ResourceExhausted

ALIGNMENT = 256  # bytes: what every allocation has, and what TensorRT asks of an address

_IN = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
_OUT = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost


@dataclass(frozen=True)
class Gpu:
    """Properties of a GPU and its driver."""

    name: str
    compute_capability: str
    """Such as 9.0."""
    driver_cuda_version: str
    """Newest CUDA that the driver runs, such as 13.1."""
    runtime_cuda_version: str
    """CUDA that this process was made for."""
    free_bytes: int
    total_bytes: int


def find_gpu() -> Gpu:
    """The GPU of this process; raises FailedPrecondition (ENGINE_INCOMPATIBLE) where there is none that works."""
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        why = _words(error) if error != cudart.cudaError_t.cudaSuccess else "there is none"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, f"this process has no NVIDIA GPU that works: {why}")
    (driver,) = _done(cudart.cudaDriverGetVersion())
    (runtime,) = _done(cudart.cudaRuntimeGetVersion())
    (properties,) = _done(cudart.cudaGetDeviceProperties(0))
    free, total = _done(cudart.cudaMemGetInfo())
    return Gpu(
        name=properties.name.decode(),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver_cuda_version=_version(driver),
        runtime_cuda_version=_version(runtime),
        free_bytes=free,
        total_bytes=total,
    )


class CudaDevice:
    """Owns all that it allocates until `close`.

    Raises ResourceExhausted (OUT_OF_MEMORY) where there is no room, and Internal for any other CUDA error: most of them
    are permanent, so every later call fails too.
    """

    def __init__(self) -> None:
        self._memory: list[int] = []
        self._pinned: list[int] = []
        (self.stream,) = _done(cudart.cudaStreamCreate())

    def allocate(self, size_bytes: int) -> int:
        """Address of zeroed device memory, a multiple of ALIGNMENT."""
        (address,) = _done(cudart.cudaMalloc(size_bytes), size_bytes)
        self._memory.append(address)
        self.zero(address, size_bytes)
        return int(address)

    def pinned_zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Zeroed host array that the device reads and writes by itself. Gone with `close`."""
        count = math.prod(shape)
        size = max(1, count * np.dtype(dtype).itemsize)
        (address,) = _done(cudart.cudaMallocHost(size), size)
        self._pinned.append(address)
        ctypes.memset(address, 0, size)
        memory = memoryview((ctypes.c_byte * size).from_address(address)).cast("B")
        array: npt.NDArray[Any] = np.frombuffer(memory, dtype, count).reshape(shape)
        return array

    def free_bytes(self) -> int:
        """Free device memory."""
        free, _ = _done(cudart.cudaMemGetInfo())
        return int(free)

    def zero(self, address: int, size_bytes: int) -> None:
        """Fill with zeros."""
        _done(cudart.cudaMemsetAsync(address, 0, size_bytes, self.stream))

    def zero_blocks(self, address: int, pitch: int, width: int, height: int) -> None:
        """Fill `height` blocks of `width` bytes with zeros; each begins `pitch` bytes behind the one before."""
        _done(cudart.cudaMemset2DAsync(address, pitch, 0, width, height, self.stream))

    def copy_in(self, address: int, array: npt.NDArray[Any]) -> None:
        """From a contiguous host array."""
        _done(cudart.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, _IN, self.stream))

    def copy_out(self, array: npt.NDArray[Any], address: int) -> None:
        """To a contiguous host array."""
        _done(cudart.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, _OUT, self.stream))

    def copy_blocks_in(self, address: int, pitch: int, array: npt.NDArray[Any]) -> None:
        """From a host array [block, ...], contiguous but for its first axis, to blocks `pitch` bytes apart."""
        host, host_pitch, width, height = _blocks(array)
        _done(cudart.cudaMemcpy2DAsync(address, pitch, host, host_pitch, width, height, _IN, self.stream))

    def copy_blocks_out(self, array: npt.NDArray[Any], address: int, pitch: int) -> None:
        """To a host array [block, ...], contiguous but for its first axis, from blocks `pitch` bytes apart."""
        host, host_pitch, width, height = _blocks(array)
        _done(cudart.cudaMemcpy2DAsync(host, host_pitch, address, pitch, width, height, _OUT, self.stream))

    def synchronize(self) -> None:
        """Wait until all copies and fills are done."""
        _done(cudart.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Free everything. Errors are ignored: the process no longer uses the device."""
        cudart.cudaStreamSynchronize(self.stream)
        for address in self._memory:
            cudart.cudaFree(address)
        for address in self._pinned:
            cudart.cudaFreeHost(address)
        cudart.cudaStreamDestroy(self.stream)


def _blocks(array: npt.NDArray[Any]) -> tuple[int, int, int, int]:
    """Address, pitch and width in bytes, and number of the blocks of an array."""
    assert array[0].flags.c_contiguous, array.strides
    return array.ctypes.data, array.strides[0], array[0].nbytes, len(array)


def _done(answer: tuple[Any, ...], wanted_bytes: int = 0) -> tuple[Any, ...]:
    """What a call returns besides its error; raises for an error."""
    error, *values = answer
    if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
        message = f"CUDA has no room for {wanted_bytes / 2**20:,.1f} MiB more; unload another engine"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, message, needed_bytes=wanted_bytes)
    if error != cudart.cudaError_t.cudaSuccess:
        raise Internal(Reason.INTERNAL, f"CUDA failed: {_words(error)}")
    return tuple(values)


def _words(error: cudart.cudaError_t) -> str:
    _, name = cudart.cudaGetErrorName(error)
    _, text = cudart.cudaGetErrorString(error)
    return f"{name.decode()}, {text.decode()}"


def _version(number: int) -> str:
    """CUDA's versions are 1000 times the major one plus 10 times the minor one."""
    return f"{number // 1000}.{number % 1000 // 10}"
