"""Sessions and turns in SQL: what goes in comes out, and a history is put together from its turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.catalog import Catalog
from common.database import Database, open_database
from common.errors import AlreadyExists, FailedPrecondition, Internal, NotFound, Reason
from common.pages import read_page
from common.store import open_store
from common.window import Geometry
from runtime_service.options import GenerationOptions, RequestedOptions
from runtime_service.session import OnFull, Session, SessionOptions
from runtime_service.session_repository import SessionRepository
from runtime_service.session_rows import pack, unpack
from runtime_service.text import Message
from runtime_service.turn import FinishReason, Result, Timing, Turn, TurnInput, TurnRequest, Usage
from tests.whole_manifests import DIGEST, make_manifest

NOON = datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)
SESSION = Session(
    principal="local",
    session_id="a",
    engine_name="demo",
    engine_version=1,
    engine_digest=DIGEST,
    options=SessionOptions(
        sink_tokens=3, window_tokens=5, on_full=OnFull.ERROR, delete_after_idle_s=60.0, continue_when_disconnected=True
    ),
    labels={"k": "v", "ä": "ö"},
    digest=b"\x01" * 32,
    opening=(1, 2),
    pinned=True,
    position=2,
    created_at=NOON,
    last_active_at=NOON,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'x.db'}")
    Catalog(database, open_store(str(tmp_path / "store"))).publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    yield database
    database.close()


@pytest.fixture
def repository(database: Database) -> SessionRepository:
    return SessionRepository(database)


def turn(number: int, **input_: object) -> Turn:
    given = TurnInput(**(input_ or {"text": "hi"}))  # type: ignore[arg-type]
    asked = TurnRequest(f"t{number}", given, RequestedOptions(seed=2**64 - 1, stop=("x",)))
    return Turn(number, asked, GenerationOptions(max_new_tokens=4, seed=2**53 - 1, stop=("x",)), NOON)


def finished(turn: Turn, prompt: int, generated: tuple[int, ...], position: int) -> Turn:
    result = Result(
        reason=FinishReason.STOP,
        usage=Usage(prompt, len(generated), position, 1),
        timing=Timing(0.1, 0.2, 0.3, 0.4),
        prompt_tokens=prompt,
        text="hello",
        token_ids=generated,
        stop_sequence="x",
        started_sequence=10,
        finished_sequence=20,
    )
    return replace(turn, result=result, ended_at=NOON + timedelta(seconds=1))


def after(session: Session, turn: Turn) -> Session:
    assert turn.result is not None
    assert turn.ended_at is not None
    return session.after(turn.result, turn.ended_at)


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
    repository.add_turn(session.key, accepted)
    assert repository.find_turn(session.key, "t1") == accepted
    done = finished(accepted, 2, (7, 8), 7)
    repository.finish_turn(after(session, done), done, (5, 6, 7, 8, 9))
    assert repository.find_turn(session.key, "t1") == done
    kept = repository.get("local", "a")
    assert (kept.position, kept.turns, kept.last_sequence) == (7, 1, 20)


def test_an_error_is_kept_as_it_was(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session.key, turn(1))
    error = Internal(Reason.NON_FINITE_LOGITS, "not finite", position=3)
    result = Result(FinishReason.ERROR, Usage(), Timing(), error=error)
    ended = replace(turn(1), result=result, ended_at=NOON)
    repository.finish_turn(after(session, ended), ended, ())
    found = repository.find_turn(session.key, "t1")
    assert found is not None
    assert found.result is not None
    kept = found.result.error
    assert isinstance(kept, Internal)
    assert (kept.reason, kept.message, kept.metadata) == (error.reason, error.message, error.metadata)


def test_a_claim_counts_and_brings_what_never_ended(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    for number in (1, 2, 3):
        repository.add_turn(session.key, turn(number))
    done = finished(turn(1), 1, (), 3)
    repository.finish_turn(after(session, done), done, (5,))
    claimed, unended, number = repository.claim("local", "a")
    assert claimed.epoch == session.epoch + 1
    assert [item.turn_id for item in unended] == ["t2", "t3"]
    assert number == 4
    repository.note_attempt(session.key, replace(unended[0], attempt=2, stops=1))
    again, unended, _ = repository.claim("local", "a")
    assert again.epoch == session.epoch + 2
    assert (unended[0].attempt, unended[0].stops) == (2, 1)
    with pytest.raises(NotFound):
        repository.claim("other", "a")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)
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
        repository.add_turn(session.key, turn(index))
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


def test_pages_of_turns_come_in_order(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    for number in range(1, 6):
        repository.add_turn(session.key, turn(number))
    seen, token = [], ""
    while True:
        found, token = repository.list_turns(session, read_page(2, token, "turns", (int,)))
        seen += [item.number for item in found]
        if not token:
            break
    assert seen == [1, 2, 3, 4, 5]


def test_sessions_expire_when_their_time_has_passed(repository: SessionRepository) -> None:
    session = repository.create(SESSION)
    later = replace(session, expires_at=NOON + timedelta(seconds=10))
    repository.set_expiry(later)
    assert repository.expired(NOON) == []
    assert repository.expired(NOON + timedelta(seconds=10)) == [later]
    repository.claim("local", "a")
    assert repository.expired(NOON + timedelta(seconds=10)) == []
    repository.set_missing_expiries(NOON)
    assert [item.expires_at for item in repository.expired(NOON + timedelta(days=1))] == [NOON + timedelta(seconds=60)]
