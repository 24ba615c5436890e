"""Matrices of an engine beside the checkpoint's.

What a matrix was rounded to depends on a text, so it cannot be computed anew. It is judged instead: every block has a
scale and a zero point that its own range in the checkpoint gives, each weight is where its step allows, and the matrix
is as large as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.engine_weights import Array, EngineWeights, StoredRows
from builder_service.graph.quantize import INT8_LARGEST, LEAST_SCALE, SHARES, factor_scales, in_blocks

_EDGE = 1.5  # steps
_RUN = 64  # rows, as many as a head has: one row may be far off for good reason, a head may not
_SHORT = 2.0**-7  # relative: as much as the next larger bfloat16 is larger, at most


@dataclass(frozen=True)
class Weighed:
    """A matrix beside the checkpoint's; what is of a run is of the one of _RUN rows that is furthest off."""

    name: str
    bits: int
    distance: float
    """Of weights, in steps; root mean square of a run."""
    scale: float
    """Of scales from the nearest that their blocks may have, relative; root mean square of a run."""
    zero: float
    """Of zero points from those that go with such scales; root mean square of a run."""
    gain: float
    """How much larger it is than the nearest numbers of its own grid, 0 for as large; by weights that cannot have been
    cut to what their block can be.
    """
    gain_error: float
    """The standard error of that, if weights were rounded without regard to each other."""


def weigh(weights: EngineWeights, tensors: Tensors) -> Iterator[Weighed]:
    """Every matrix beside that of `tensors`, which are held as the engine holds them."""
    for name in weights:
        yield _weighed(name, np.concatenate(list(tensors.blocks(name))), weights.stored(name))


def _weighed(name: str, exact: npt.NDArray[np.float32], stored: Iterator[StoredRows]) -> Weighed:
    start, bits, furthest, sums = 0, 8, np.zeros(3), np.zeros(3)
    for found in stored:
        rows = exact[start : start + len(found.scales)].astype(np.float64)
        start, bits, edge = start + len(rows), found.values.bits, _EDGE * found.steps
        off = ((found.weights - rows) / found.steps, *_off_grid(rows, found))
        furthest = np.maximum(furthest, list(map(_furthest_run, off)))
        more = found.weights - found.nearest(rows)
        rows[(rows < found.low + edge) | (rows > found.high - edge)] = 0
        more *= rows
        sums += more.sum(), np.square(more).sum(), np.square(rows).sum()
    own = max(float(sums[2]), 1e-30)
    distance, scale, zero = map(float, furthest)
    return Weighed(name, bits, distance, scale, zero, float(sums[0]) / own, float(sums[1]) ** 0.5 / own)


def _furthest_run(off: Array) -> float:
    """The largest root mean square of a run of rows, [rows, anything]."""
    squares = np.square(off).mean(axis=1)
    return math.sqrt(max(squares[at : at + _RUN].mean() for at in range(0, len(squares), _RUN)))


def _off_grid(exact: Array, found: StoredRows) -> tuple[Array, Array]:
    """How far scales are from the nearest that a block of `exact` may have, relative, and zero points from theirs.

    0 of a block in which there is nothing.
    """
    stored, scales = found.values, found.scales[:, :, 0]
    zeros = np.broadcast_to(stored.zeros, found.scales.shape)[:, :, 0]
    if stored.most == 2 * INT8_LARGEST:
        own = factor_scales(exact.astype(np.float32))[:, None]
        return scales / own - 1, zeros - INT8_LARGEST
    blocks = in_blocks(exact, stored.numbers.shape[2])
    low, high = blocks.min(axis=2, initial=0), blocks.max(axis=2, initial=0)
    middle = (stored.most + 1) // 2 if found.on_gpu and not stored.floating else stored.most / 2
    wide = np.maximum(-low / middle, high / (stored.most - middle)) if found.on_gpu else (high - low) / stored.most
    whole, shares = np.maximum(wide, LEAST_SCALE), SHARES[:1] if stored.floating else SHARES
    ratios = scales[:, :, None] / (whole[:, :, None] * shares)
    off = np.maximum(np.maximum(1 - ratios, ratios - (1 + _SHORT)), 0)
    nearest, known = off.argmin(axis=2), whole * min(shares) > LEAST_SCALE
    points = zeros if found.on_gpu else np.rint(-low * np.array(shares)[nearest] / scales)
    return off.min(axis=2) * known, (zeros - points) * known
