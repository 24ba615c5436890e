"""Turns are found by their words, at the same cost and in the same order, whatever the database."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from common.db.database import Database
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from runtime_service.domain.recall import Indexed, Span
from runtime_service.domain.session import Session
from runtime_service.recall.search import find
from runtime_service.recall.words import asked_words, kept_words
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.recall.index import Found, RecallIndex, Word
from runtime_service.storage.recall.newest import DEPTH, packed, unpacked
from runtime_service.storage.recall.past_turns import PastTurns
from runtime_service.storage.recall.words import add_words, drop_words
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.tables import recall_turns, recall_words
from runtime_service.storage.updates import SessionUpdates
from tests.samples.session_examples import SESSION, after, finished, turn

SAID = ("my dog is called Rex", "the cat is black", "my dog is called Bello", "東京の天気")


@pytest.fixture
def index(database: Database) -> RecallIndex:
    return RecallIndex(database)


def talked(repository: SessionRepository, session: Session, said: tuple[str, ...] = SAID) -> Session:
    """Each turn takes ten positions, and is found by what was said in it."""
    for number, text in enumerate(said, session.turns + 1):
        repository.add_turn(session, turn(number))
        done = finished(turn(number), 6, (7, 8, 9), session.position + 10)
        span = Span(number, session.position, 10)
        session = after(session, done)
        repository.finish_turn(session, done, range(10), Indexed(span, kept_words([text])))
    return session


@pytest.fixture
def session(repository: SessionRepository) -> Session:
    return talked(repository, repository.create(SESSION))


def found(index: RecallIndex, session: Session, asked: str, before: int = 10**6) -> list[int]:
    return [each.span.number for each in find(index, session, [asked], before)]


def search(index: RecallIndex, session: Session, words: tuple[int, ...], before: int) -> Found:
    with index.reading(session) as reader:
        return reader.search(words, before)


def rows(database: Database, session: Session) -> tuple[int, int]:
    with database.read() as connection:
        counts = [
            connection.scalar(select(func.count()).select_from(table).where(table.c.session_key == session.key))
            for table in (recall_turns, recall_words)
        ]
    return counts[0] or 0, counts[1] or 0


def test_turns_are_found_by_their_words_the_newer_first(index: RecallIndex, session: Session) -> None:
    assert found(index, session, "what is my dog called?") == [3, 1]
    assert found(index, session, "天気は?") == [4]
    assert found(index, session, "nothing of this was ever said".replace("is", "")) == []


def test_a_question_of_a_megabyte_costs_its_two_ends(index: RecallIndex, session: Session) -> None:
    assert found(index, session, f"Rex {'what is this ' * 90_000} dog?") == [1]
    assert found(index, session, f"{'nothing else ' * 40_000} Rex dog {'nothing else ' * 40_000}") == []


def test_only_what_began_before_a_position_is_found(index: RecallIndex, session: Session) -> None:
    assert found(index, session, "dog Rex", before=22) == [1]
    assert found(index, session, "dog", before=22) == []  # the model still sees what corrects it
    assert found(index, session, "dog", before=2) == []
    assert search(index, session, asked_words(["dog"]), 13).newest == 2


def test_the_same_end_written_again_is_kept_once(
    database: Database, repository: SessionRepository, session: Session
) -> None:
    before = rows(database, session)
    done = finished(turn(4), 6, (7, 8, 9), session.position)
    repository.finish_turn(session, done, range(10), Indexed(Span(4, 32, 10), kept_words(["again"])))
    assert rows(database, session) == before


def test_of_each_word_the_newest_turns_are_kept_and_how_many_there_are(
    database: Database, index: RecallIndex, session: Session
) -> None:
    with database.write_rows() as connection:
        for number in range(10, 10 + DEPTH + 20):
            add_words(connection, session.key, Indexed(Span(number, 10 * number, 10), (1, -5, number)))
    rare, common = sorted(search(index, session, (1, 77, -(2**31)), 10**6).words, key=lambda word: word.having)
    assert rare == Word(77, 1, packed(77))
    assert common == Word(1, DEPTH + 20, packed(*range(29 + DEPTH, 29, -1)))
    assert search(index, session, (1,), 400).newest == 39


@pytest.mark.parametrize("after", [80, 12])
def test_a_rewind_of_few_turns_or_of_many_leaves_no_word_of_them(
    database: Database, index: RecallIndex, session: Session, after: int
) -> None:
    with database.write() as connection:
        for number in range(10, 100):
            add_words(connection, session.key, Indexed(Span(number, 10 * number, 10), (1, -5 - number % 2, number)))
        drop_words(connection, session.key, after)
    seen = search(index, session, (1, -5, -6, 11, 12, 13, 80, 81, 99), 10**6)
    assert seen.newest == after
    assert {turn for word in seen.words for turn in unpacked(word.newest)} <= set(range(10, after + 1))
    assert Word(12, 1, packed(12)) in seen.words
    odd = Word(-6, min(45, (after - 10) // 2), packed(*range(after - 1 + after % 2, 10, -2)))
    assert odd in seen.words


def test_sessions_are_apart_whoever_has_them_and_none_inherits(
    database: Database, repository: SessionRepository, index: RecallIndex, session: Session
) -> None:
    mine = repository.create(replace(SESSION, principal="ann"))
    assert found(index, mine, "dog") == []
    repository.delete(session)
    assert rows(database, session) == (0, 0)
    theirs = repository.create(replace(SESSION, principal="bob"))
    assert found(index, theirs, "dog") == []


def test_a_rewind_drops_the_words_of_what_it_drops(
    database: Database, repository: SessionRepository, index: RecallIndex, session: Session
) -> None:
    rewound, _ = SessionBranches(database).rewind(session, "t2", drop_turn=False)
    assert found(index, rewound, "dog") == [1]
    assert rows(database, rewound) == (2, len(kept_words(SAID[:2])))
    again = talked(repository, replace(rewound, turns=2), ("my bird is called Kiwi",))
    assert found(index, again, "bird kiwi") == [3]


def test_a_fork_finds_what_it_has(
    database: Database, repository: SessionRepository, index: RecallIndex, session: Session
) -> None:
    fork = SessionBranches(database).fork(session, "t2", replace(session, session_id="b"))
    assert found(index, fork, "dog cat") == [2, 1]
    repository.delete(session)
    assert found(index, fork, "dog") == [1]


def test_spans_and_turns_are_read_by_number_and_by_name(
    database: Database, index: RecallIndex, session: Session
) -> None:
    past = PastTurns(database)
    with index.reading(session) as reader:
        assert [(each.span, tuple(each.words)) for each in reader.entries([3, 1, 99])] == [
            (Span(number, 10 * number - 8, 10), kept_words([SAID[number - 1]])) for number in (1, 3)
        ]
    assert [(item.number, tokens) for item, tokens in past.read(session, [2, 99])] == [(2, list(range(10)))]
    assert past.tokens(session, [2, 99]) == {2: ("t2", list(range(10)))}
    assert [item.turn_id for item, _ in past.read_named(session, ["t3", "t1", "x"])] == ["t1", "t3"]
    assert [(result.usage.position, tokens) for result, tokens in past.results(session, 22)] == [(42, 10), (32, 10)]


def test_pins_are_kept_in_order_up_to_a_quarter_of_the_window(
    database: Database, repository: SessionRepository
) -> None:
    options = replace(SESSION.options, window_tokens=80)
    session = talked(repository, repository.create(replace(SESSION, options=options)))
    key, updates = (session.principal, session.session_id), SessionUpdates(database, "here")
    for turn_id in ("t3", "t1", "t3"):
        pinned = updates.pin(key, turn_id, pinned=True)
    assert [(pin.turn_id, pin.position, pin.tokens) for pin in pinned.pins] == [("t1", 2, 10), ("t3", 22, 10)]
    with pytest.raises(FailedPrecondition, match="'t2' has 10 tokens and the pinned turns have 20; .* have 20") as full:
        updates.pin(key, "t2", pinned=True)
    assert full.value.reason is Reason.PINS_FULL
    assert [pin.turn_id for pin in updates.pin(key, "t1", pinned=False).pins] == ["t3"]
    assert [pin.turn_id for pin in updates.pin(key, "none", pinned=False).pins] == ["t3"]
    rewound, _ = SessionBranches(database).rewind(session, "t2", drop_turn=False)
    assert rewound.pins == repository.get(*key).pins == ()


def test_a_fork_has_the_pins_of_its_turns(database: Database, repository: SessionRepository) -> None:
    options = replace(SESSION.options, window_tokens=80)
    session = talked(repository, repository.create(replace(SESSION, options=options)))
    updates = SessionUpdates(database, "here")
    for turn_id in ("t1", "t3"):
        session = updates.pin((session.principal, session.session_id), turn_id, pinned=True)
    fork = SessionBranches(database).fork(session, "t2", replace(session, session_id="b"))
    assert [pin.turn_id for pin in fork.pins] == ["t1"]


def test_what_cannot_be_pinned_is_named(database: Database, repository: SessionRepository, session: Session) -> None:
    updates, key = SessionUpdates(database, "here"), (session.principal, session.session_id)
    with pytest.raises(NotFound, match="has no turn 'x'"):
        updates.pin(key, "x", pinned=True)
    repository.add_turn(session, turn(5))
    with pytest.raises(FailedPrecondition, match="'t5' of sessions/a has not finished"):
        updates.pin(key, "t5", pinned=True)
    repository.finish_turn(session, finished(turn(5), 6, (), session.position), ())
    with pytest.raises(InvalidArgument, match="'t5' of sessions/a is not whole"):
        updates.pin(key, "t5", pinned=True)
