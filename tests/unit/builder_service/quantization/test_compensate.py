"""Rounding that makes up for its own errors: on the grid, within what the format holds, and better than the nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.graph.quantize import INT8_LARGEST, PAIR_LARGEST, bfloat16, float8
from builder_service.quantization import compensate
from builder_service.quantization.compensate import Compensation, compensation, round_rows
from builder_service.quantization.grid import FloatArray, Grid, block_grid, float_grid, grid_of, row_grid
from builder_service.quantization.packed import on_disk, packed_rows, unpacked

GPU = BlockFormat(4, 32, short_scales=True, on_gpu=True)
EIGHT = replace(GPU, bits=8, block=64)
FOUR = BlockFormat(4, 32)
INPUTS = 70  # a part of a block of 32 and of 64, and half a pair less than 71


def activations(inputs: int = INPUTS) -> FloatArray:
    """Numbers that go together, as those of a model do."""
    chance = np.random.default_rng(inputs)
    mixed = chance.standard_normal((400, inputs // 4)) @ chance.standard_normal((inputs // 4, inputs))
    return (mixed + 0.3 * chance.standard_normal((400, inputs))).astype(np.float32)


def matrix(inputs: int = INPUTS) -> FloatArray:
    return np.random.default_rng(1).standard_normal((24, inputs)).astype(np.float32)


def weights(values: FloatArray, grid: Grid) -> FloatArray:
    scales, zeros = grid.columns(values.shape[1])
    return grid.weights(values, scales.T, zeros.T)


def lost(values: FloatArray, grid: Grid, rows: FloatArray, read: FloatArray) -> float:
    return float(np.square(read @ (weights(values, grid) - rows).T).sum() / np.square(read @ rows.T).sum())


GRIDS: dict[str, Callable[[FloatArray, Compensation], Grid]] = {
    "int8": lambda rows, _: row_grid(rows),
    "int4": lambda rows, found: block_grid(rows, 32, 4, found.importance),
    "8 bits in blocks": lambda rows, found: block_grid(rows, 32, 8, found.importance),
    "int4 on a GPU": lambda rows, found: block_grid(rows, 32, 4, found.importance, symmetric=True),
    "int8 on a GPU": lambda rows, found: block_grid(rows, rows.shape[1], 8, found.importance, symmetric=True),
    "fp8": lambda rows, _: float_grid(rows),
}


@pytest.mark.parametrize("most", [2048, 32])
@pytest.mark.parametrize("inputs", [INPUTS, INPUTS + 1])
@pytest.mark.parametrize("kind", GRIDS)
def test_less_is_lost_than_by_the_nearest(kind: str, inputs: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensate, "MOST_INPUTS", most)
    rows, read = matrix(inputs), activations(inputs)
    found = compensation(read)
    grid = GRIDS[kind](rows, found)
    values = round_rows(rows.copy(), grid, found)
    share = 0.3 if most > inputs else 0.8  # inputs of different groups do not make up for each other
    assert lost(values, grid, rows, read) < share * lost(grid.nearest(rows), grid, rows, read)
    assert (values == (float8(values) if grid.floating else np.rint(values))).all()
    assert grid.lowest <= values.min() <= values.max() <= grid.highest
    if grid.pair is not None:
        even = inputs // 2 * 2
        assert np.abs(values[:, :even:2] + values[:, 1::2]).max() <= grid.pair == PAIR_LARGEST
        assert np.abs(values).max() <= INT8_LARGEST


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest() -> None:
    rows, found = matrix(64), compensation(64 * np.eye(64, dtype=np.float32))
    grid = row_grid(rows)
    assert (round_rows(rows, grid, found) == grid.nearest(rows)).mean() > 0.99  # the pairs' bound apart


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_or_zero_leave_the_nearest(bad: float) -> None:
    rows, read = matrix(), activations()
    read[3, 5] = bad
    for unfit in (read, np.zeros_like(read)):
        found = compensation(unfit)
        grid = block_grid(rows, 32, 4)
        np.testing.assert_array_equal(round_rows(rows, grid, found), grid.nearest(rows))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_what_is_packed_is_what_it_was(bits: int, block: int) -> None:
    rows = matrix()
    rows[0], rows[1] = 0, 1e-44
    grid = block_grid(rows, block, bits)
    restored = unpacked(packed_rows(grid.nearest(rows), grid), BlockFormat(bits, block))
    assert not restored[:, INPUTS:].any()
    assert not restored[:2].any()
    steps = grid.columns(INPUTS)[0].T
    assert (np.abs(restored[2:, :INPUTS] - rows[2:]) <= 0.501 * steps[2:]).all()


@pytest.mark.parametrize("form", [GPU, replace(GPU, block=64), EIGHT, replace(EIGHT, floating=True)])
def test_what_a_gpu_is_given_lies_around_zero_and_is_rounded_once_more(form: BlockFormat) -> None:
    rows = matrix(64)
    rows[0], rows[1] = 0, 1e-44
    rows[2] = -np.abs(rows[2])  # whose largest number is the least value
    grid = grid_of(rows, form)
    assert set(grid.zeros.ravel()) == {0 if form.floating else 2 ** (form.bits - 1)}
    restored = unpacked(packed_rows(grid.nearest(rows), grid), form)
    np.testing.assert_array_equal(restored, bfloat16(restored))
    assert not restored[:2].any()
    steps = grid.columns(64)[0].T * (32 if form.floating else 1)
    assert (np.abs(restored[2:] - rows[2:]) <= 0.501 * steps[2:] + np.abs(rows[2:]) / 256).all()
    assert grid.nearest(rows)[2].min() == grid.lowest


def test_a_row_of_int8_is_one_block() -> None:
    rows, grid = matrix(), row_grid(matrix())
    packed = packed_rows(grid.nearest(rows), grid)
    assert packed.values.shape == (len(rows), 1, INPUTS)
    np.testing.assert_allclose(unpacked(packed, None), rows, atol=0.501 * float(grid.scales.max()))


def test_a_narrower_range_is_taken_where_what_matters_lies_close_to_zero() -> None:
    rows = np.linspace(-0.2, 0.3, 32, dtype=np.float32)[None].copy()
    rows[0, 7] = 1.0
    importance = np.ones(32, np.float32)
    importance[7] = 1e-3
    assert block_grid(rows, 32, 4, importance).scales < block_grid(rows, 32, 4).scales


def test_what_is_put_on_the_disk_is_the_same_and_is_not_in_memory(tmp_path: Path) -> None:
    grid = block_grid(matrix(), 32, 4)
    packed = packed_rows(grid.nearest(matrix()), grid)
    stored = on_disk(packed, tmp_path / "model.layers.0.weight.0")
    assert isinstance(stored.values, np.memmap)
    np.testing.assert_array_equal(unpacked(stored, FOUR), unpacked(packed, FOUR))
