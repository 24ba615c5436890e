"""What `make test` takes a part of and `make nightly` all: matrices of tests, and examples of properties."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

_FACTOR = int(os.environ.get("SINKSERVE_TEST_EXAMPLES", "1"))


def by_turns(rows: Iterable[Any], columns: Sequence[Any]) -> list[Any]:
    """Parameters: every row with every column. Each row has one of the columns by day, in turn, and all by night."""
    return [
        _case(row, column, by_day=place == number % len(columns))
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """Parameters: one in `count` of the cases by day, and all by night."""
    return [_case(case, by_day=number % count == 0) for number, case in enumerate(cases)]


def _case(*values: Any, by_day: bool) -> Any:
    return pytest.param(*values, marks=() if by_day else pytest.mark.nightly)


def examples(count: int) -> int:
    """How many examples a property gets: `count` by day, SINKSERVE_TEST_EXAMPLES times as many by night."""
    return count * _FACTOR
