"""The same cause is told once, what is unexpected always."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from common.errors import Reason, Unavailable
from common.failure_log import FailureLog

AWAY = Unavailable(Reason.DATABASE_UNAVAILABLE, "the database is away")
FULL = Unavailable(Reason.DATABASE_UNAVAILABLE, "the database is full")


def attempt(failures: FailureLog, error: BaseException | None = None) -> None:
    with failures.attempt():
        if error is not None:
            raise error


def test_the_same_cause_is_told_once_until_the_work_succeeds() -> None:
    failures = FailureLog("work.failed", task="renew")
    with capture_logs() as told:
        for error in (AWAY, AWAY, FULL, None, FULL):
            attempt(failures, error)
    assert [entry["cause"] for entry in told] == [AWAY.message, FULL.message, FULL.message]
    expected = ("work.failed", "renew", "warning")
    assert {(entry["event"], entry["task"], entry["log_level"]) for entry in told} == {expected}


def test_it_fails_until_it_succeeds() -> None:
    failures = FailureLog("work.failed")
    seen = []
    for error in (None, AWAY, ValueError("wrong"), None):
        attempt(failures, error)
        seen.append(failures.failing)
    assert seen == [False, True, True, False]


def test_what_nobody_expects_is_told_each_time_with_its_traceback() -> None:
    failures, error = FailureLog("work.failed"), ValueError("wrong")
    with capture_logs() as told:
        attempt(failures, error)
        attempt(failures, error)
    assert [(entry["log_level"], entry["exc_info"]) for entry in told] == [("error", True)] * 2


def test_what_ends_a_task_goes_on() -> None:
    with pytest.raises(asyncio.CancelledError):
        attempt(FailureLog("work.failed"), asyncio.CancelledError())
