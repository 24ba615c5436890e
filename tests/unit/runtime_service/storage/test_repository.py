"""Sessions and turns in SQL: what goes in comes out, and a history is put together from its turns."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.paging import read_page
from common.errors import AlreadyExists, FailedPrecondition, Internal, NotFound, Reason
from common.store.blob_store import open_store
from common.window import Geometry
from runtime_service.domain.turn import FinishReason, Message, Result, Timing, Usage
from runtime_service.domain.window_view import WindowNotice
from runtime_service.storage import tables
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.rows import pack, unpack
from tests.nightly import examples
from tests.samples.session_examples import NOON, SESSION, after, finished, turn
from tests.samples.whole_manifests import make_manifest


@pytest.fixture
def repository(database: Database, tmp_path: Path) -> SessionRepository:
    Catalog(database, open_store(str(tmp_path / "store"))).publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    return SessionRepository(database)


def test_a_session_comes_out_as_it_went_in(repository: SessionRepository) -> None:
    kept = repository.create(SESSION)
    assert replace(kept, key=0) == SESSION
    assert repository.get("local", "a") == kept


def test_a_session_id_is_taken_once_for_each_owner(repository: SessionRepository) -> None:
    repository.create(SESSION)
    with pytest.raises(AlreadyExists) as caught:
        repository.create(SESSION)
    assert caught.value.reason is Reason.SESSION_EXISTS
    repository.create(replace(SESSION, principal="other"))
    assert repository.find("nobody", "a") is None


def test_a_session_of_an_engine_that_has_gone_is_refused(repository: SessionRepository) -> None:
    with pytest.raises(NotFound) as caught:
        repository.create(replace(SESSION, engine_version=9))
    assert caught.value.reason is Reason.ENGINE_NOT_FOUND


def test_a_session_holds_its_engine_until_it_is_deleted(
    repository: SessionRepository, database: Database, tmp_path: Path
) -> None:
    session = repository.create(SESSION)
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    with pytest.raises(FailedPrecondition) as caught:
        catalog.delete("demo@1")
    assert caught.value.reason is Reason.ENGINE_IN_USE
    assert repository.delete(session)
    assert not repository.delete(session)
    catalog.delete("demo@1")


@pytest.mark.parametrize(
    "input_",
    [{"text": "Grüße 🙂"}, {"messages": (Message("user", "a"), Message("assistant", ""))}, {"token_ids": (1, 2)}],
)
def test_a_turn_comes_out_as_it_went_in(repository: SessionRepository, input_: dict[str, object]) -> None:
    session = repository.create(SESSION)
    accepted = turn(1, **input_)
    repository.add_turn(session, accepted)
    assert repository.find_turn(session.key, "t1") == accepted
    done = finished(accepted, 2, (7, 8), 7)
    repository.finish_turn(after(session, done), done, (5, 6, 7, 8, 9))
    assert repository.find_turn(session.key, "t1") == done
    kept = repository.get("local", "a")
    assert (kept.position, kept.turns, kept.last_sequence) == (7, 1, 20)


def test_an_error_is_kept_as_it_was(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    error = Internal(Reason.NON_FINITE_LOGITS, "not finite", position=3)
    result = Result(FinishReason.ERROR, Usage(window_start_position=3), Timing(), error=error)
    ended = replace(turn(1), result=result, ended_at=NOON)
    repository.finish_turn(after(session, ended), ended, ())
    found = repository.find_turn(session.key, "t1")
    assert found is not None
    assert found.result is not None
    kept = found.result.error
    assert isinstance(kept, Internal)
    assert (kept.reason, kept.message, kept.metadata) == (error.reason, error.message, error.metadata)


def test_what_a_turn_told_of_its_view_is_kept(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    usage = Usage(position=20, window_start_position=15, oldest_visible_turn="t1")
    notice = WindowNotice(3, 15, 2, ("t0", "t1"))
    ended = replace(turn(1), result=Result(FinishReason.STOP, usage, Timing(), notice=notice), ended_at=NOON)
    repository.finish_turn(after(session, ended), ended, range(18))
    found = repository.find_turn(session.key, "t1")
    assert found is not None
    assert found.result is not None
    assert (found.result.usage, found.result.notice) == (usage, notice)
    kept = repository.get("local", "a")
    assert (kept.window_start_position, kept.oldest_visible_turn, kept.evicted_tokens) == (15, "t1", 12)


def test_a_turn_that_ended_before_views_were_kept_does_not_tell_of_its_own(
    repository: SessionRepository, database: Database
) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    ended = finished(turn(1), 1, (5,), 4)
    repository.finish_turn(after(session, ended), ended, (1, 5))
    with database.write() as connection:
        connection.execute(update(tables.turns).values(view=None))
    found = repository.find_turn(session.key, "t1")
    assert found is not None
    assert found.result is not None
    assert found.result.usage.window_start_position is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(12))
@given(st.lists(st.lists(st.integers(0, 1 << 30), max_size=9), max_size=90), st.integers(0, 60), st.integers(0, 1000))
def test_the_history_is_that_of_the_turns(
    repository: SessionRepository, turns: list[list[int]], count: int, number: int
) -> None:
    name = f"h{number}"
    found = repository.find("local", name)
    if found is not None:
        repository.delete(found)
    session = repository.create(replace(SESSION, session_id=name))
    history = list(session.opening)
    for index, tokens in enumerate(turns, 1):
        repository.add_turn(session, turn(index))
        history += tokens
        done = finished(turn(index), len(tokens), (), len(history))
        session = after(session, done)
        repository.finish_turn(session, done, tokens)
    sinks, start, recent = repository.history(session, count)
    assert sinks == history[:3]
    assert recent == history[start:]
    assert len(recent) >= min(count, len(history))


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1)))
def test_tokens_pack_into_four_bytes_each(tokens: list[int]) -> None:
    assert unpack(pack(tokens)) == tokens
    assert len(pack(tokens)) == 4 * len(tokens)


def test_pages_of_sessions_miss_and_repeat_nothing(repository: SessionRepository) -> None:
    for index in range(7):
        active = NOON + timedelta(seconds=index // 3)  # some at the same instant
        repository.create(replace(SESSION, session_id=f"s{index}", last_active_at=active))
    repository.create(replace(SESSION, principal="other"))
    seen, token = [], ""
    while True:
        found, token = repository.list_sessions("local", read_page(2, token, "sessions", (int, int)))
        seen += [session.session_id for session in found]
        if not token:
            break
    assert seen == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_of_turns_come_in_order(repository: SessionRepository, newest_first: bool) -> None:
    session = repository.create(SESSION)
    for number in range(1, 6):
        repository.add_turn(session, turn(number))
    seen, token = [], ""
    while True:
        page = read_page(2, token, "turns", (int,))
        found, token = repository.list_turns(session, page, newest_first=newest_first)
        seen += [item.number for item in found]
        if not token:
            break
    assert seen == sorted([1, 2, 3, 4, 5], reverse=newest_first)
