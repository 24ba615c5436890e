"""What has to be true after everything: of what clients were told, of what is kept, and of every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sqlalchemy import select

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.store.blob_store import open_store
from runtime_service.domain.turn import FinishReason, Turn
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.rows import turn_from_row, unpack
from runtime_service.storage.tables import turns
from sinkserve.client import Client
from tests.service.replicas.audit import violations
from tests.service.replicas.chatter import Asked, Chatter
from tests.service.runtime.forced_replay import Gap, History, replay


@dataclass
class Findings:
    """What was found, all of it as promised."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Turns by how they ended."""
    errors: Counter[str] = field(default_factory=Counter)
    """Of those that ended in ERROR, what they said."""
    attempts: Counter[int] = field(default_factory=Counter)
    """Turns by how often they were started."""
    epochs: int = 0
    """Times that a session was claimed."""
    tokens: int = 0
    """In all histories."""
    judged: int = 0
    """Tokens that were chosen greedily, each replayed."""
    worst: Gap = field(default_factory=lambda: Gap("", 0, 0.0))
    tolerance: float = 0.0
    not_best: int = 0
    """Of the judged tokens, those that the replay would not have chosen."""


async def check_listed(client: Client, chatters: Sequence[Chatter]) -> int:
    """Every turn that ended is in the history that the service lists, once and in order; else AssertionError.

    Returns how many of those that were sent at once stand behind one that was sent later: they were refused, perhaps
    on a stream that was lost before it could say so, and sent again.
    """
    behind = 0
    for chatter in chatters:
        if chatter.asked:
            records = [turn async for turn in client.sessions.turns(f"sessions/{chatter.session_id}")]
            behind += _check_order(chatter.asked, [record.turn_id for record in records])
    return behind


class Judge:
    """Of what the database has, and of what the engine makes of it."""

    def __init__(self, database: Database, store_url: str, folder: Path) -> None:
        self.findings = Findings()
        self._database = database
        self._store_url = store_url
        self._folder = folder

    def judge(self, chatters: Sequence[Chatter]) -> Findings:
        """Raises AssertionError for what is not as clients were told, or as it has to be."""
        assert (noted := violations(self._database)) == [], f"{len(noted)} forbidden writes, such as {noted[:3]}"
        self._replay([self._history(chatter) for chatter in chatters if chatter.asked])
        return self.findings

    def _history(self, chatter: Chatter) -> History:
        """The history of a session, once its turns are what its client was told."""
        session = SessionRepository(self._database).get("local", chatter.session_id)
        with self._database.read() as connection:
            query = select(turns).where(turns.c.session_key == session.key).order_by(turns.c.number)
            rows = list(connection.execute(query).mappings())
        kept = [turn_from_row(row) for row in rows]
        _check_told({asked.turn_id: asked for asked in chatter.asked}, kept)
        _check_sequences(session.name, kept, session.epoch)
        tokens, chosen = list(session.opening), set[int]()
        for turn, row in zip(kept, rows, strict=True):
            self._count(turn)
            chosen |= _chosen(turn, len(tokens))
            tokens += unpack(row["tokens"] or b"")
        assert len(tokens) == session.position, session.name
        self.findings.epochs += session.epoch
        self.findings.tokens += len(tokens)
        return History(session.name, session.window, tokens, frozenset(chosen))

    def _count(self, turn: Turn) -> None:
        assert turn.result is not None, turn
        self.findings.reasons[turn.result.reason.value] += 1
        self.findings.attempts[turn.attempt] += 1
        if turn.result.error is not None:
            self.findings.errors[turn.result.error.message] += 1

    def _replay(self, histories: list[History]) -> None:
        published = Catalog(self._database, store := open_store(self._store_url)).resolve("demo")
        loaded = Loader(store, self._folder, RuntimeSettings(threads=2)).load(published)
        assert isinstance(loaded, Loaded)
        assert published.manifest.tolerance is not None
        found = self.findings
        found.tolerance = published.manifest.tolerance
        for gap in replay(loaded.engine, histories):
            found.judged += 1
            found.not_best += gap.gap > 0
            found.worst = max(found.worst, gap, key=lambda gap: gap.gap)
        loaded.engine.close()
        assert found.worst.gap <= found.tolerance, found.worst


def _check_order(asked: Sequence[Asked], kept: list[str]) -> int:
    """All that ended are there once, and batches follow one another; returns turns behind later ones of their batch."""
    assert len(set(kept)) == len(kept), Counter(kept).most_common(1)
    ended = {turn.turn_id for turn in asked if turn.finished is not None}
    assert ended == set(kept), f"not kept: {ended - set(kept)}; nobody asked: {set(kept) - ended}"
    places = {turn.turn_id: number for number, turn in enumerate(asked)}
    batches = [asked[places[turn_id]].batch for turn_id in kept]
    assert batches == sorted(batches), kept
    return sum(places[later] < places[turn_id] for turn_id, later in pairwise(kept))


def _check_told(asked: dict[str, Asked], kept: list[Turn]) -> None:
    for turn in kept:
        told, result = asked[turn.turn_id], turn.result
        assert told.finished is not None, turn
        assert result is not None, turn
        assert told.finished.reason.value.upper() == result.reason.value, (told, turn)
        assert told.finished.usage.position == result.usage.position, (told, turn)
        if result.reason not in {FinishReason.ERROR, FinishReason.CANCELLED}:
            assert (told.reply, told.token_ids) == (result.text, result.token_ids), (told, turn)


def _check_sequences(name: str, kept: list[Turn], epoch: int) -> None:
    """They rise from turn to turn, and none is of an epoch that has not begun."""
    ends = [turn.result.finished_sequence for turn in kept if turn.result is not None]
    starts = [turn.result.started_sequence or turn.result.finished_sequence for turn in kept if turn.result is not None]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False)), name
    assert all(end >> 32 <= epoch for end in ends), name


def _chosen(turn: Turn, begin: int) -> set[int]:
    """Positions of tokens that were chosen as the best, of a turn whose first token is at `begin`."""
    assert turn.result is not None
    if turn.options.temperature:
        return set()
    first = begin + turn.result.usage.prompt_tokens
    return set(range(first, first + len(turn.result.token_ids)))
