from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from builder_service.graph.quantize import (
    BLOCK,
    FACTOR_LARGEST,
    INT4_ZERO,
    LEAST_SCALE,
    UINT8_ZERO,
    block_count,
    int4_blocks,
    int4_values,
    int8_blocks,
    int8_factors,
    int8_rows,
)
from common.spec.target_options import OnnxRuntimeOptions

INT4_BLOCKS = get_args(OnnxRuntimeOptions.model_fields["int4_block"].annotation)
matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False),
)


anything = arrays(  # a float32 can be, and blocks of one sign or of nothing
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=150),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    fill=st.sampled_from([np.float32(value) for value in (0, -1, 1e-45, -3e-44, 2e-37, 3.4e38, -3.4e38)]),
)
blocks = st.sampled_from(INT4_BLOCKS)


def _int4_and_back(rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """What a matrix becomes, and the scale of each of its numbers, both in float64."""
    packed, scales, zeros = int4_blocks(rows, block)
    values, points = int4_values(packed).astype(np.float64), int4_values(zeros)[:, : scales.shape[1], None]
    restored = ((values - points) * scales[:, :, None]).reshape(len(rows), -1)[:, : rows.shape[1]]
    return restored, np.repeat(scales.astype(np.float64), block, axis=1)[:, : rows.shape[1]]


def _quantized(rows: np.ndarray) -> list[np.ndarray]:
    return [*int8_rows(rows), *int8_blocks(rows), *int4_blocks(rows, 32)]


@given(matrices)
def test_int8_is_within_half_a_scale(rows: np.ndarray) -> None:
    values, scales = int8_rows(rows)
    assert values.dtype == np.int8
    assert values.min() >= -127
    error = np.abs(values * scales[:, None].astype(np.float64) - rows)
    assert (error <= 0.5001 * scales[:, None]).all()


@given(matrices)
def test_int8_factors_are_within_half_a_scale_and_their_pairs_fit_16_bits(rows: np.ndarray) -> None:
    values, scales = int8_factors(rows)
    error = np.abs(values * scales[:, None].astype(np.float64) - rows)
    assert (error <= 0.5001 * scales[:, None]).all()
    padded = np.pad(values.astype(int), ((0, 0), (0, rows.shape[1] % 2)))
    for side in (np.maximum(padded, 0), np.minimum(padded, 0)):  # an activation of 0 takes the other side away
        products = 2 * FACTOR_LARGEST * side.reshape(len(rows), -1, 2).sum(axis=2)
        assert (products >= -(2**15)).all()
        assert (products < 2**15).all()


def test_int8_factors_use_more_than_seven_bits() -> None:
    values, _ = int8_factors(np.random.default_rng(0).standard_normal((50, 576)).astype(np.float32))
    assert np.abs(values.astype(int)).max(axis=1).mean() > 90


def test_int8_uses_its_whole_range_in_every_row() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32) * np.logspace(-6, 6, 9)[:, None]
    values, _ = int8_rows(rows.astype(np.float32))
    assert (np.abs(values.astype(int)).max(axis=1) == 127).all()


@given(anything, blocks)
@example(np.array([[3.4e38, -3.4e38]], np.float32), 32)  # farther apart than a float32 reaches
def test_int4_is_within_half_a_scale_and_zeros_are_exact(rows: np.ndarray, block: int) -> None:
    packed, scales, zeros = int4_blocks(rows, block)
    count = block_count(rows.shape[1], block)
    assert packed.shape == (len(rows), count, block // 2)
    assert packed.dtype == np.uint8
    assert scales.shape == (len(rows), count)
    assert scales.dtype == np.float32
    assert zeros.shape == (len(rows), (count + 1) // 2)
    assert zeros.dtype == np.uint8
    assert np.isfinite(scales).all()
    assert (scales >= LEAST_SCALE).all()
    restored, steps = _int4_and_back(rows, block)
    error = np.abs(restored - rows)
    assert (error[rows == 0] == 0).all()
    quiet = (steps == 1) & (restored == 0) & (np.abs(rows) <= 16 * LEAST_SCALE)  # as zeros, see below
    assert (error <= 0.5001 * steps)[~quiet].all()


@given(matrices, blocks)
def test_int4_has_a_block_from_end_to_end_in_fifteen_steps(rows: np.ndarray, block: int) -> None:
    """Both ends of a block, zero among them, are met within half a step; so no step could be shorter by much."""
    _, steps = _int4_and_back(rows, block)
    for start in range(0, rows.shape[1], block):
        part = rows[:, start : start + block].astype(np.float64)
        reach = part.max(axis=1, initial=0) - part.min(axis=1, initial=0)
        np.testing.assert_allclose(steps[:, start], np.where(reach / 15 >= LEAST_SCALE, reach / 15, 1), rtol=1e-6)


@given(arrays(np.float32, (3, 70), elements=st.floats(0, 2.0**20, width=32, allow_subnormal=False)), blocks)
def test_int4_of_one_sign_has_its_zero_at_an_end(rows: np.ndarray, block: int) -> None:
    for signed, end in ((rows, 0), (-rows, 15)):
        _, scales, zeros = int4_blocks(signed, block)
        busy = [[row[start : start + block].max() > 1e-36 for start in range(0, 70, block)] for row in rows]
        assert (int4_values(zeros)[:, : scales.shape[1]][np.array(busy)] == end).all()


@pytest.mark.parametrize("reach", [1e-45, 1e-40, 1.1e-38, 1.7e-37])
def test_int4_that_an_engine_would_read_as_zeros_is_zeros(reach: float) -> None:
    rows = np.linspace(-reach / 2, reach / 2, 32, dtype=np.float32)[None]
    restored, steps = _int4_and_back(rows, 32)
    assert not restored.any()
    assert (steps == 1).all()


def test_int4_just_above_that_is_not() -> None:
    rows = np.linspace(-1e-37, 1e-37, 32, dtype=np.float32)[None]
    restored, steps = _int4_and_back(rows, 32)
    assert (np.abs(restored - rows) <= 0.5001 * steps).all()
    assert steps[0, 0] < 1.4e-38


def test_zero_points_let_int4_lose_less_than_a_scale_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    parts = rows.reshape(64, -1, 32)
    peaks = np.take_along_axis(parts, np.abs(parts).argmax(axis=2, keepdims=True), axis=2)
    steps = peaks / -8  # symmetric, with the peak exact
    alone = np.clip(np.rint(parts / steps), -8, 7) * steps
    restored, _ = _int4_and_back(rows, 32)
    assert ((restored - rows) ** 2).mean() < 0.9 * ((alone - parts) ** 2).mean()


@given(matrices)
def test_int8_in_blocks_is_within_half_a_scale(rows: np.ndarray) -> None:
    values, scales = int8_blocks(rows)
    assert values.shape == (len(rows), block_count(rows.shape[1], BLOCK), BLOCK)
    assert values.dtype == np.uint8
    restored = (values.astype(np.float64) - UINT8_ZERO) * scales[:, :, None]
    bound = 0.5001 * np.repeat(scales, BLOCK, axis=1)[:, : rows.shape[1]]
    assert (np.abs(restored.reshape(len(rows), -1)[:, : rows.shape[1]] - rows) <= bound).all()


def test_zeros_stay_zeros() -> None:
    rows = np.zeros((3, 70), np.float32)
    values, scales = int8_rows(rows)
    assert not (values * scales[:, None]).any()
    for block in INT4_BLOCKS:
        restored, steps = _int4_and_back(rows, block)
        assert not restored.any()
        assert (steps == 1).all()


def test_a_row_does_not_change_with_its_neighbours() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    loud = rows.copy()
    loud[1:] *= 1000
    for alone, among in zip(_quantized(rows), _quantized(loud), strict=True):
        np.testing.assert_array_equal(alone[0], among[0])


def test_what_a_block_lacks_is_filled_with_what_stands_for_zero() -> None:
    packed, scales, zeros = int4_blocks(np.full((1, 33), -1, np.float32), 32)
    assert scales.shape == (1, 2)
    assert (int4_values(packed)[0, 1, 1:] == int4_values(zeros)[0, 1]).all()
    packed, scales, zeros = int4_blocks(np.ones((1, 20), np.float32), 128)
    assert (int4_values(packed)[0, 0, 20:] == int4_values(zeros)[0, 0]).all()
    assert int4_values(zeros)[0, 1] == INT4_ZERO, "the half of a byte that belongs to no block"


def test_the_earlier_of_two_values_is_in_the_low_half() -> None:
    rows = np.zeros((1, 96), np.float32)
    rows[0, :2], rows[0, 32:34] = (0, 15), (-15, 0)
    packed, scales, zeros = int4_blocks(rows, 32)
    assert scales.tolist() == [[1, 1, 1]]
    assert zeros.tolist() == [[0xF0, 0x80]]
    assert packed[0, 0, 0] == 0xF0
    assert packed[0, 1].tolist() == [0xF0] + [0xFF] * 15
