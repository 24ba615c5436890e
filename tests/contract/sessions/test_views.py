"""What a session's model sees, found again from its turns wherever it goes on, whatever the database."""

from __future__ import annotations

import uuid
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.db.database import Database
from runtime_service.domain.session import Session
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from tests.nightly import examples
from tests.samples.session_examples import SESSION, after, finished, turn
from tests.service.session_model.view import Span, oldest_visible, start_of


def _spoken(repository: SessionRepository, lengths: list[int]) -> tuple[Session, list[Span]]:
    """A session with turns of so many tokens each."""
    session, spans = repository.create(replace(SESSION, session_id=uuid.uuid4().hex)), list[Span]()
    for number, length in enumerate(lengths, start=1):
        repository.add_turn(session, turn(number))
        done = finished(turn(number), 0, (), session.position + length)
        spans.append(Span(f"t{number}", range(session.position, session.position + length)))
        session = after(session, done)
        repository.finish_turn(session, done, range(length))
    return session, spans


def _whole(session: Session, spans: list[Span]) -> list[tuple[int, str]]:
    """The turns that are whole in view: from the oldest such on."""
    oldest = oldest_visible(session.window, session.position, spans)
    first = next((span.tokens.start for span in spans if span.turn_id == oldest), session.position)
    return [(span.tokens.start, span.turn_id) for span in spans if span.tokens and span.tokens.start >= first]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(10))
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    at=st.integers(0, 8),
    sinks=st.integers(0, 3),
    drop=st.booleans(),
)
def test_the_view_is_found_again_after_a_claim_a_fork_and_a_rewind(
    repository: SessionRepository, database: Database, *, lengths: list[int], at: int, sinks: int, drop: bool
) -> None:
    session, spans = _spoken(repository, lengths)
    claimed = SessionClaims(database, "there", 15.0).claim("local", session.session_id)
    assert claimed is not None
    assert [(start.position, start.turn_id) for start in claimed.whole_turns] == _whole(session, spans)
    at %= len(spans)
    branches = SessionBranches(database)
    smaller = replace(session.options, sink_tokens=sinks, window_tokens=2)
    target = replace(claimed.session, session_id=uuid.uuid4().hex, options=smaller)
    forked = branches.fork(claimed.session, spans[at].turn_id, target)
    rewound, _ = branches.rewind(claimed.session, spans[at].turn_id, drop_turn=drop)
    for there, kept in ((forked, spans[: at + 1]), (rewound, spans[: at + 1 - drop])):
        for found in (there, repository.get("local", there.session_id)):
            assert found.window_start_position == start_of(there.window, there.position)
            assert found.oldest_visible_turn == oldest_visible(there.window, there.position, kept)
