"""When a client comes back."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinkserve.client import Retry, SinkServeError
from sinkserve.client.errors import Details
from sinkserve.client.retry import is_lost_connection

dice = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(0, 10_000), dice=dice)
def test_no_wait_is_longer_than_the_longest_nor_shorter_than_half_of_what_is_due(attempt: int, dice: float) -> None:
    retry = Retry(first_s=0.1, factor=2, longest_s=5)
    due = min(5.0, 0.1 * 2 ** min(attempt, 60))
    assert due / 2 <= retry.wait_s(attempt, dice) <= due


@given(attempt=st.integers(0, 100), dice=dice)
def test_waits_do_not_shrink(attempt: int, dice: float) -> None:
    assert Retry().wait_s(attempt, dice) <= Retry().wait_s(attempt + 1, dice)


@pytest.mark.parametrize(
    ("code", "reason", "lost"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", True),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING", True),
        (grpc.StatusCode.INTERNAL, "", True),
        (grpc.StatusCode.INTERNAL, "INTERNAL", False),
        (grpc.StatusCode.CANCELLED, "", True),
        (grpc.StatusCode.CANCELLED, "BUILD_CANCELLED", False),
        (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER", False),
        (grpc.StatusCode.ABORTED, "SESSION_DELETED", False),
        (grpc.StatusCode.ABORTED, "", False),
        (grpc.StatusCode.NOT_FOUND, "", False),
        (grpc.StatusCode.UNKNOWN, "", False),
    ],
)
def test_only_a_lost_connection_is_worth_coming_back_for(code: grpc.StatusCode, reason: str, lost: bool) -> None:
    assert is_lost_connection(SinkServeError(code, "why", Details(reason))) is lost
