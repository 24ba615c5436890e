from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.engine.denormals import flushed_denormals

on_x86_glibc = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"} or platform.libc_ver()[0] != "glibc",
    reason="denormals are left alone elsewhere",
)


def _product() -> float:
    """1e-40 as float32, computed by the calling thread; too short an array for numpy to hand to another."""
    return float((np.full(1, 1e-30, np.float32) * np.full(1, 1e-10, np.float32))[0])


@on_x86_glibc
def test_denormals_are_zero_within_the_block_and_not_after_it() -> None:
    assert _product() > 0
    with flushed_denormals():
        assert _product() == 0
    assert _product() > 0


@on_x86_glibc
def test_an_error_within_the_block_leaves_nothing_set() -> None:
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert _product() > 0


@on_x86_glibc
def test_a_block_inside_a_block_does_not_end_the_outer_one() -> None:
    with flushed_denormals():
        with flushed_denormals():
            pass
        assert _product() == 0


@on_x86_glibc
def test_other_threads_are_left_alone() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_product).result()  # the thread exists before the block begins
        with flushed_denormals():
            assert pool.submit(_product).result() > 0


def test_normal_numbers_are_unchanged() -> None:
    with flushed_denormals():
        assert float(np.float32(1e-37) * np.float32(3)) == float(np.float32(3e-37))
