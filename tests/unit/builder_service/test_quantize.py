from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from builder_service.quantize import BLOCK, INT4_ZERO, UINT8_ZERO, block_count, int4_blocks, int8_blocks, int8_rows

matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False),
)


def _unpack(packed: np.ndarray, scales: np.ndarray, inputs: int) -> np.ndarray:
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, BLOCK).astype(np.int32)
    return np.asarray(((values - INT4_ZERO) * scales[:, :, None]).reshape(len(packed), -1)[:, :inputs])


def _quantized(rows: np.ndarray) -> list[np.ndarray]:
    return [*int8_rows(rows), *int8_blocks(rows), *int4_blocks(rows)]


@given(matrices)
def test_int8_is_within_half_a_scale(rows: np.ndarray) -> None:
    values, scales = int8_rows(rows)
    assert values.dtype == np.int8
    assert values.min() >= -127
    error = np.abs(values * scales[:, None].astype(np.float64) - rows)
    assert (error <= 0.5001 * scales[:, None]).all()


def test_int8_uses_its_whole_range_in_every_row() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32) * np.logspace(-6, 6, 9)[:, None]
    values, _ = int8_rows(rows.astype(np.float32))
    assert (np.abs(values.astype(int)).max(axis=1) == 127).all()


@given(matrices)
def test_int4_is_within_a_scale_and_its_peak_is_exact(rows: np.ndarray) -> None:
    packed, scales = int4_blocks(rows)
    assert packed.shape == (len(rows), block_count(rows.shape[1]), BLOCK // 2)
    assert packed.dtype == np.uint8
    error = np.abs(_unpack(packed, scales, rows.shape[1]) - rows)
    bound = np.repeat(np.abs(scales), BLOCK, axis=1)[:, : rows.shape[1]]
    assert (error <= 1.001 * bound).all()
    peak = np.abs(rows).max(axis=1)
    assert (np.abs(np.abs(_unpack(packed, scales, rows.shape[1])).max(axis=1) - peak) <= 1e-5 * peak).all()


@given(matrices)
def test_int8_in_blocks_is_within_half_a_scale(rows: np.ndarray) -> None:
    values, scales = int8_blocks(rows)
    assert values.shape == (len(rows), block_count(rows.shape[1]), BLOCK)
    assert values.dtype == np.uint8
    restored = (values.astype(np.float64) - UINT8_ZERO) * scales[:, :, None]
    bound = 0.5001 * np.repeat(scales, BLOCK, axis=1)[:, : rows.shape[1]]
    assert (np.abs(restored.reshape(len(rows), -1)[:, : rows.shape[1]] - rows) <= bound).all()


def test_zeros_stay_zeros() -> None:
    rows = np.zeros((3, 70), np.float32)
    values, scales = int8_rows(rows)
    assert not (values * scales[:, None]).any()
    packed, block_scales = int4_blocks(rows)
    assert not _unpack(packed, block_scales, 70).any()


def test_a_row_does_not_change_with_its_neighbours() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    loud = rows.copy()
    loud[1:] *= 1000
    for alone, among in zip(_quantized(rows), _quantized(loud), strict=True):
        np.testing.assert_array_equal(alone[0], among[0])


def test_an_odd_number_of_inputs_is_filled_with_what_stands_for_zero() -> None:
    packed, scales = int4_blocks(np.ones((1, 33), np.float32))
    last = np.stack([packed[0, 1] & 15, packed[0, 1] >> 4], axis=-1).reshape(-1)
    assert scales.shape == (1, 2)
    assert (last[1:] == INT4_ZERO).all()
