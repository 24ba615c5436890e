"""Rounding that makes up for its own errors: what one weight is off by, the weights not yet rounded take back.

Source: GPTQ (arXiv 2210.17323); order of columns and grids fixed in advance as in its authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.quantization.grid import FloatArray, Grid

TRUSTED = 0.75  # of what a text says about two inputs going together: a short one says more than is so
DAMPING = 0.01  # of the mean second moment, added to all
MOST_INPUTS = 2048  # that make up for each other
_STEP = 32  # columns whose errors reach the columns behind them together; an even number
_SMALL = 64  # rows of a triangle


@dataclass(frozen=True)
class Compensation:
    """How inputs make up for each other: some at a time, those that matter most first.

    `order` has every input once; `groups` are runs of it, and each has an upper triangle [run, run], whose row says
    what an error in one input means for those behind it.
    """

    order: npt.NDArray[np.intp]
    groups: tuple[FloatArray, ...]
    importance: FloatArray
    """Mean square of each input, [in]."""


def compensation(activations: npt.NDArray[np.floating]) -> Compensation:
    """From what a matrix is multiplied by, [tokens, in]; where that is not finite, nothing is made up for."""
    inputs = activations.shape[1]
    rows: FloatArray = activations.astype(np.float32)
    if not np.isfinite(rows).all():
        rows = np.zeros((1, inputs), np.float32)
    importance = np.square(rows).mean(axis=0)
    count = -(-inputs // MOST_INPUTS)
    size = 2 * -(-inputs // (2 * count))
    orders, groups = [], []
    for start in range(0, inputs, size):
        group, order = rows[:, start : start + size], _by_pairs(importance[start : start + size])
        moments: FloatArray = (group.T @ group)[np.ix_(order, order)] / np.float32(len(group))
        orders.append(start + order)
        groups.append(_triangle(moments))
    return Compensation(np.concatenate(orders), tuple(groups), importance)


def round_rows(rows: FloatArray, grid: Grid, found: Compensation) -> npt.NDArray[np.float32]:
    """Values [out, in] on the grid, as float32, whose products with the activations are off by little."""
    inputs = rows.shape[1]
    scales, zeros = (each[found.order] for each in grid.columns(inputs))
    left = np.ascontiguousarray(rows[:, found.order].T)  # [in, out]
    values, start = np.empty_like(left), 0
    for triangle in found.groups:
        run = slice(start, start + len(triangle))
        _round_group(left[run], scales[run], zeros[run], triangle, grid, values[run])
        start = run.stop
    restored = np.empty_like(rows)
    restored[:, found.order] = values.T
    return restored


def _round_group(  # noqa: PLR0917 - columns [in, out] of one group, and where their values go
    left: FloatArray, scales: FloatArray, zeros: FloatArray, triangle: FloatArray, grid: Grid, values: FloatArray
) -> None:
    errors = np.empty_like(left[:_STEP])
    for start in range(0, len(left), _STEP):
        end = min(start + _STEP, len(left))
        for column in range(start, end):
            low: int | FloatArray = grid.lowest
            high: int | FloatArray = grid.highest
            if grid.pair is not None and column % 2:
                low = np.maximum(low, -grid.pair - values[column - 1])
                high = np.minimum(high, grid.pair - values[column - 1])
            values[column] = grid.values(left[column] / scales[column], zeros[column], low, high)
            error = left[column] - grid.weights(values[column], scales[column], zeros[column])
            error /= triangle[column, column]
            left[column + 1 : end] -= triangle[column, column + 1 : end, None] * error
            errors[column - start] = error
        left[end:] -= triangle[start:end, end:].T @ errors[: end - start]


def _by_pairs(importance: FloatArray) -> npt.NDArray[np.intp]:
    """Pairs of inputs side by side, those that matter most first; an odd one out is last."""
    even = len(importance) // 2 * 2
    first = np.argsort(-importance[:even].reshape(-1, 2).sum(axis=1), kind="stable")
    order = (2 * first[:, None] + np.arange(2)).reshape(-1)
    return np.concatenate([order, np.arange(even, len(importance))])


def _triangle(moments: FloatArray) -> FloatArray:
    """The upper Cholesky factor of the inverse of second moments [in, in]."""
    damped, places = TRUSTED * moments.astype(np.float64), np.diag_indices(len(moments))
    mean = float(moments[places].mean())
    damped[places] = moments[places] + (DAMPING * mean if mean > 0 else 1.0)
    lower: npt.NDArray[np.floating] = np.linalg.cholesky(damped[::-1, ::-1])
    return _inverse(lower[::-1, ::-1]).astype(np.float32)  # an upper one, which times its transpose is `damped`


def _inverse(upper: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Of an upper triangle, by halves: a third of what any other matrix takes."""
    if len(upper) <= _SMALL:
        found: npt.NDArray[np.floating] = np.linalg.inv(upper)
        return found
    half = len(upper) // 2
    found = np.zeros_like(upper)
    found[:half, :half], found[half:, half:] = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    found[:half, half:] = -found[:half, :half] @ upper[:half, half:] @ found[half:, half:]
    return found
