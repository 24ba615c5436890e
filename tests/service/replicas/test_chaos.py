"""Everything falls and people talk on, in small; and the judge sees what is wrong. Long: `bench/service/chaos.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.engine.engine import Feed
from common.store.blob_store import open_store
from common.window import Geometry, SessionWindow
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from tests.fakes.engine import FakeEngine
from tests.nightly import examples
from tests.samples.session_examples import SESSION, after, finished, turn
from tests.samples.whole_manifests import make_manifest
from tests.service.replicas import audit
from tests.service.replicas.chaos import Chaos, Plan
from tests.service.replicas.outages import database_of, store_of
from tests.service.runtime.forced_replay import History, replay

GEOMETRY = Geometry(2, 6, 4, 2)
WINDOW = SessionWindow(2, 5)


@pytest.mark.long
async def test_whatever_falls_nothing_that_ended_is_lost_or_told_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database_of(tmp_path) as (database_url, database_outages), store_of(monkeypatch) as (store_url, store_outages):
        outages = (*database_outages, *store_outages)
        plan = Plan(tmp_path, database_url, store_url, outages=outages, seconds=examples(8), quiet_s=2.0)
        report = await Chaos(plan).run()
    assert report.findings.judged > 20
    assert report.blows


def _greedy(prompt: tuple[int, ...], count: int) -> History:
    engine = FakeEngine(GEOMETRY)
    tokens = list(prompt)
    for position in range(len(prompt) + count - 1):
        logits = engine.step((Feed(0, position, WINDOW, (tokens[position],)),))[0]
        if position + 1 == len(tokens):
            tokens.append(int(logits.argmax()))
    return History("sessions/a", WINDOW, tokens, frozenset(range(len(prompt), len(tokens))))


def test_a_replay_tells_a_token_that_was_not_the_best_from_those_that_were() -> None:
    right = [_greedy(prompt, 12) for prompt in ((1, 2, 3, 4, 5), (7,), (3, 1, 4))]
    gaps = list(replay(FakeEngine(GEOMETRY), right))
    assert len(gaps) == 36
    assert {gap.gap for gap in gaps} == {0.0}
    tokens = list(right[0].tokens)
    tokens[9] = (tokens[9] + 1) % 64
    wrong = [*right[1:], replace(right[0], name="wrong", tokens=tokens)]
    found = {(gap.session, gap.position) for gap in replay(FakeEngine(GEOMETRY), wrong) if gap.gap > 0}
    assert ("wrong", 9) in found
    assert {session for session, _ in found} == {"wrong"}


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE sessions SET epoch = epoch - 1",
        "UPDATE sessions SET epoch = epoch + 2",
        "UPDATE sessions SET last_sequence = last_sequence + 1",  # of the epoch before
        "UPDATE sessions SET position = position - 1",
        "UPDATE turns SET attempt = attempt + 1",
    ],
)
def test_the_audit_notes_what_a_server_that_was_thought_dead_would_write(
    database: Database, tmp_path: Path, write: str
) -> None:
    Catalog(database, open_store(str(tmp_path / "store"))).publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    audit.install(database)
    repository = SessionRepository(database)
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    done = finished(turn(1), 1, (), 3)
    assert done.result is not None
    done = replace(done, result=replace(done.result, finished_sequence=(session.epoch << 32) + 20))
    repository.finish_turn(after(session, done), done, (5,))
    SessionClaims(database, "there", 15.0).claim("local", "a")
    assert audit.violations(database) == []
    with database.write() as connection:
        connection.execute(text(write))
    assert len(audit.violations(database)) == 1
