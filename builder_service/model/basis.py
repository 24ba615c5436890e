"""Orthogonal matrices that spread one large number over many: products of small ones, so that they cost little.

What is multiplied by such a matrix, and then by its transpose, is what it was. Between the two no number stands out
any more, and few bits hold all of them well.

Source: QuaRot (arXiv 2404.00456), SpinQuant (arXiv 2405.16406).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

FACTOR = 64  # rows of a factor at most, where the width is divisible so
AT_RUN_TIME = 64  # numbers that are mixed while an engine runs

FloatArray = npt.NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)


@dataclass(frozen=True)
class Basis:
    """The matrix B [width, width]: signs on the diagonal, times the Kronecker product of the factors."""

    signs: FloatArray
    factors: tuple[FloatArray, ...]

    @property
    def width(self) -> int:
        """Rows of the matrix."""
        return len(self.signs)

    def turn(self, rows: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """``rows @ B``; rows of several widths are turned width by width."""
        turned, behind = rows.reshape(-1, self.width) * self.signs, self.width
        for factor in self.factors:
            behind //= len(factor)
            turned = (
                factor.T @ turned.reshape(-1, len(factor), behind)
                if behind > 1
                else turned.reshape(-1, len(factor)) @ factor
            )
        return turned.reshape(rows.shape)

    def matrix(self) -> FloatArray:
        """B itself."""
        return self.turn(np.eye(self.width, dtype=np.float32))


def mixing(width: int) -> Basis:
    """A basis in which every number of a row is a sum of all of them, each with much the same weight."""
    chance = np.random.default_rng(width)
    signs = chance.choice(np.array([-1, 1], np.float32), width)
    return Basis(signs, tuple(_factor(size) for size in _sizes(width)))


def mixing_fast(width: int) -> Basis | None:
    """One that mixes groups of neighbours by a single small matrix; None where the width is odd."""
    size = math.gcd(width, AT_RUN_TIME)
    return Basis(np.ones(size, np.float32), (_factor(size),)) if size > 1 else None


def _sizes(width: int) -> list[int]:
    """The power of two in `width` in parts of FACTOR at most, then what is left."""
    sizes = []
    while width % 2 == 0:
        sizes.append(math.gcd(width, FACTOR))
        width //= sizes[-1]
    return [*sizes, *([width] if width > 1 else [])] or [1]


def _factor(size: int) -> FloatArray:
    """Hadamard's matrix where there is one by doubling, else that of the cosine transform."""
    if size & (size - 1):
        places = np.arange(size)
        rows = np.cos(np.pi * np.outer(2 * places + 1, places) / (2 * size)) * math.sqrt(2 / size)
        rows[:, 0] = math.sqrt(1 / size)
        return rows.astype(np.float32)
    rows = np.ones((1, 1))
    while len(rows) < size:
        rows = np.block([[rows, rows], [rows, -rows]])
    return (rows / math.sqrt(size)).astype(np.float32)
