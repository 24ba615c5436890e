"""What `make test` takes a part of: matrices of tests, and examples of properties.

What it leaves out is `long` (`make test-long`, which CI runs too) or `nightly` (`make nightly`, which runs everything).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

LONG, NIGHTLY = pytest.mark.long, pytest.mark.nightly
_FACTOR = int(os.environ.get("SINKSERVE_TEST_EXAMPLES", "1"))


def by_turns(rows: Iterable[Any], columns: Sequence[Any], *, long_rows: int = 1) -> list[Any]:
    """Parameters: every row with every column. Each row has one of the columns by day, in turn, and all by night.

    Of rows one in `long_rows` has its turn by day; that of the others is long.
    """
    return [
        _case(row, column, marks=NIGHTLY if place != number % len(columns) else LONG if number % long_rows else ())
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]


def one_in(count: int, cases: Iterable[Any], rest: pytest.MarkDecorator = NIGHTLY) -> list[Any]:
    """Parameters: one in `count` of the cases by day, from the first on. The rest is nightly, or long."""
    return [_case(case, marks=() if number % count == 0 else rest) for number, case in enumerate(cases)]


def _case(*values: Any, marks: Any) -> Any:
    return pytest.param(*values, marks=marks)


def examples(count: int) -> int:
    """How many examples a property gets: `count` by day, SINKSERVE_TEST_EXAMPLES times as many by night."""
    return count * _FACTOR
