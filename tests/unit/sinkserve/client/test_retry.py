"""How patiently a client comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sinkserve.client import Retry

dice = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(0, 10_000), dice=dice)
def test_no_wait_is_longer_than_the_longest_nor_shorter_than_half_of_what_is_due(attempt: int, dice: float) -> None:
    retry = Retry(first_s=0.1, factor=2, longest_s=5)
    due = min(5.0, 0.1 * 2 ** min(attempt, 60))
    assert due / 2 <= retry.wait_s(attempt, dice) <= due


@given(attempt=st.integers(0, 100), dice=dice)
def test_waits_do_not_shrink(attempt: int, dice: float) -> None:
    assert Retry().wait_s(attempt, dice) <= Retry().wait_s(attempt + 1, dice)
