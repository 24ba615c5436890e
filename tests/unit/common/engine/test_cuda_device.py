"""One GPU's memory and copies, over CUDA's functions in host memory; and what is said where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cuda.bindings import runtime

from common.errors import FailedPrecondition, Internal, Reason, ResourceExhausted
from tests.fakes.cuda import FakeCuda
from tests.fakes.gpu import CudaDevice, find_gpu, install


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


@pytest.fixture
def device(cuda: FakeCuda) -> Iterator[CudaDevice]:
    device = CudaDevice()
    yield device
    device.close()
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_memory_is_zeroed_and_aligned(device: CudaDevice) -> None:
    array = np.ones(100, np.float32)
    address = device.allocate(array.nbytes)
    device.copy_out(array, address)
    assert array.all()  # nothing has happened yet
    device.synchronize()
    assert not array.any()
    assert address % 256 == 0


def test_what_goes_in_comes_out(device: CudaDevice) -> None:
    array, back = np.arange(24, dtype=np.float16), np.zeros(24, np.float16)
    address = device.allocate(array.nbytes)
    device.copy_in(address, array)
    device.copy_out(back, address)
    device.synchronize()
    np.testing.assert_array_equal(back, array)


def test_blocks_are_copied_between_pitches_and_nothing_else_is_touched(device: CudaDevice) -> None:
    """Three blocks of two numbers, 4 bytes apart here and 20 bytes apart there."""
    host = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    there = np.full(15, -1, np.float32)
    address = device.allocate(there.nbytes)
    device.copy_in(address, there)
    device.copy_blocks_in(address + 8, 20, host[:, 1:3])
    device.copy_out(there, address)
    device.synchronize()
    assert there.reshape(3, 5).tolist() == [[-1, -1, k, k + 1, -1] for k in (2, 6, 10)]
    device.zero_blocks(address + 8, 20, 4, 3)
    device.copy_blocks_out(host[:, :2], address + 8, 20)
    device.synchronize()
    assert host.tolist() == [[0, 3, 3, 4], [0, 7, 7, 8], [0, 11, 11, 12]]


def test_pinned_arrays_are_zero_and_have_their_shape(device: CudaDevice) -> None:
    array = device.pinned_zeros((3, 5), np.int64)
    assert array.shape == (3, 5)
    assert not array.any()
    array[:] = 7
    assert device.pinned_zeros((0,), np.float32).shape == (0,)


def test_no_room_is_told_with_the_figure(device: CudaDevice, cuda: FakeCuda) -> None:
    cuda.total_bytes = 1 << 20
    with pytest.raises(ResourceExhausted, match="no room for 2.0 MiB more") as caught:
        device.allocate(2 << 20)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_whatever_else_cuda_says_is_said_with_its_name(device: CudaDevice, cuda: FakeCuda) -> None:
    cuda.fails["cudaMemset2DAsync"] = runtime.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(Internal, match="cudaErrorIllegalAddress, as the test asked"):
        device.zero(device.allocate(8), 8)
    del cuda.fails["cudaMemset2DAsync"]


def test_the_gpu_tells_what_it_is(cuda: FakeCuda) -> None:
    cuda.total_bytes = 1 << 33
    gpu = find_gpu()
    assert (gpu.name, gpu.compute_capability) == ("Fake GPU", "9.0")
    assert (gpu.driver_cuda_version, gpu.runtime_cuda_version) == ("13.1", "13.0")
    assert (gpu.free_bytes, gpu.total_bytes) == (1 << 33, 1 << 33)


@pytest.mark.parametrize("count", [None, 0])
def test_a_machine_without_a_gpu_is_told_so(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    error = runtime.cudaError_t
    answer = (error.cudaErrorInsufficientDriver, None) if count is None else (error.cudaSuccess, count)
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: answer)
    with pytest.raises(FailedPrecondition, match="no NVIDIA GPU that works: (cudaErrorInsuff|there is none)") as caught:
        find_gpu()
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE


def test_cudas_real_bindings_answer_as_the_fake_does() -> None:
    """Without a GPU as well: an error first, then as many values as the fake gives."""
    fake = FakeCuda()
    for name in ("cudaGetDeviceCount", "cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaMemGetInfo"):
        real = getattr(runtime, name)()
        assert isinstance(real[0], runtime.cudaError_t)
        assert len(real) == len(getattr(fake, name)())
    words = runtime.cudaGetErrorName(runtime.cudaError_t.cudaErrorNoDevice)
    assert words == fake.cudaGetErrorName(runtime.cudaError_t.cudaErrorNoDevice)
