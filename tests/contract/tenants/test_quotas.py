"""Quotas that all servers of a database count together, whatever the database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from common.auth.quotas import UNBOUNDED, Quotas
from common.db.database import Database
from common.errors import Reason, ResourceExhausted, Retry
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.quotas import QuotaChecks
from runtime_service.storage.repository import SessionRepository
from tests.samples.session_examples import NOON, SESSION, after, finished, turn

TWO = Quotas(sessions=2)


def test_sessions_beyond_a_quota_are_refused_until_there_are_fewer(
    repository: SessionRepository, database: Database
) -> None:
    first = repository.create(SESSION, None, TWO)
    repository.create(replace(SESSION, session_id="b"), None, TWO)
    third = replace(SESSION, session_id="c")
    with pytest.raises(ResourceExhausted, match="quota sessions: the caller may have 2 and has 2") as caught:
        repository.create(third, None, TWO)
    error = caught.value
    assert (error.reason, error.retry, error.retry_after_s) == (Reason.QUOTA_EXCEEDED, Retry.SAME, 1.0)
    assert error.metadata == {"quota": "sessions", "used": "2", "most": "2"}
    with pytest.raises(ResourceExhausted):
        SessionBranches(database).fork(first, "", third, TWO)
    repository.create(replace(third, principal="you"), None, TWO)
    repository.create(replace(SESSION, session_id="d"), None, UNBOUNDED)
    assert repository.find("local", "c") is None


def test_servers_that_create_at_once_stay_within_a_quota(repository: SessionRepository) -> None:
    def made(number: int) -> bool:
        try:
            repository.create(replace(SESSION, session_id=f"s{number}"), None, TWO)
        except ResourceExhausted:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(made, range(8))) == 2


def test_tokens_of_a_minute_are_refused_until_the_next(repository: SessionRepository, database: Database) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    done = replace(finished(turn(1), 5, (7, 8), 7), ended_at=NOON)
    repository.finish_turn(after(session, done), done, (1,) * 7)
    checks = QuotaChecks(database)
    later = NOON + timedelta(seconds=15)
    for quotas, name in (
        (Quotas(input_tokens_per_minute=5), "input_tokens_per_minute"),
        (Quotas(input_tokens_per_minute=9, output_tokens_per_minute=1), "output_tokens_per_minute"),
    ):
        with pytest.raises(ResourceExhausted) as caught:
            checks.check_tokens("local", quotas, later)
        assert caught.value.metadata["quota"] == name
        assert caught.value.retry_after_s == pytest.approx(45, abs=0.001)
        checks.check_tokens("local", quotas, later + timedelta(seconds=45))
        checks.check_tokens("you", quotas, later)
    checks.check_tokens("local", Quotas(input_tokens_per_minute=6, output_tokens_per_minute=3), later)
