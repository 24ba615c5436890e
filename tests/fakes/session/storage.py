"""What a session keeps, in memory: sessions and turns, claims, tiers of caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.auth.quotas import UNBOUNDED, Quotas
from common.engine.engine import SlotState
from common.errors import SinkServeError
from runtime_service.domain.recall import Indexed
from runtime_service.domain.session import Session
from runtime_service.domain.session_update import SessionUpdate
from runtime_service.domain.turn import Turn
from runtime_service.storage.claims import Claimed
from runtime_service.storage.repository import session_not_found
from tests.samples.session_examples import NOON


class DirectWriter:
    """Calls at once."""

    async def do(self, act: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return act(*args, **named)


class MemoryRepository:
    """Sessions by key and turns by id. `failures` are raised by the next writes, `None` lets one pass.

    `loses` a write: it is done, and then its failure is raised.
    """

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str], Session] = {}
        self.turns: dict[str, Turn] = {}
        self.writes: list[str] = []
        self.failures: list[SinkServeError | None] = []
        self.loses = False

    def find(self, principal: str, session_id: str) -> Session | None:
        return self.sessions.get((principal, session_id))

    def create(self, session: Session, _owner: str | None = None, _quotas: Quotas = UNBOUNDED) -> Session:
        created = replace(session, key=len(self.sessions) + 1, epoch=1)
        self.sessions[session.principal, session.session_id] = created
        return created

    def delete(self, session: Session) -> bool:
        return self.sessions.pop((session.principal, session.session_id), None) is not None

    def set_expiry(self, session: Session) -> None:
        self.writes.append("expiry" if session.expires_at else "no expiry")

    def find_turn(self, _session_key: int, turn_id: str) -> Turn | None:
        return self.turns.get(turn_id)

    def add_turn(self, _session: Session, turn: Turn) -> None:
        self._write(f"add {turn.turn_id}", turn)

    def note_attempt(self, _session: Session, turn: Turn) -> None:
        self._write(f"attempt {turn.attempt}, {turn.stops} stops", turn)

    def finish_turn(
        self, _session: Session, turn: Turn, _tokens: Sequence[int], _indexed: Indexed | None = None
    ) -> None:
        self._write(f"finish {turn.turn_id}", turn)

    def check_owned(self, _session: Session) -> None:
        self.writes.append("check")

    def note_progress(self, _session: Session, _turn: Turn) -> None:
        self.writes.append("progress")

    def history(self, _session: Session, count: int) -> tuple[list[int], int, list[int]]:
        return [1], 2, [3] * count

    def _write(self, what: str, turn: Turn) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is None or self.loses:
            self.writes.append(what)
            self.turns[turn.turn_id] = turn
        if failure is not None:
            raise failure


class MemoryUpdates:
    """Changes of sessions that no other replica has."""

    def __init__(self, repository: MemoryRepository) -> None:
        self.repository = repository

    def keep(self, key: tuple[str, str], change: SessionUpdate) -> Session:
        changed = change.apply(self.repository.sessions[key], NOON, busy=False)
        self.repository.sessions[key] = changed
        return changed


class MemoryClaims:
    """Claims of one replica; it owns no session of `lost` any more."""

    replica, lease_s = "here", 15.0

    def __init__(self, repository: MemoryRepository) -> None:
        self.repository = repository
        self.released: list[str] = []
        self.cancels: list[tuple[str, bool]] = []
        self.lost: set[str] = set()

    def release(self, session: Session) -> None:
        self.released.append(session.session_id)

    def claim(self, principal: str, session_id: str) -> Claimed | None:
        session = self.repository.find(principal, session_id)
        if session is None:
            raise session_not_found(session_id)
        claimed = replace(session, epoch=session.epoch + 1)
        self.repository.sessions[principal, session_id] = claimed
        unended = [turn for turn in self.repository.turns.values() if turn.result is None]
        return Claimed(claimed, unended, len(self.repository.turns) + 1)

    def expired(self) -> list[Session]:
        return [session for session in self.repository.sessions.values() if session.expires_at is not None]

    def is_owner(self, session: Session) -> bool:
        return session.session_id not in self.lost

    def request_cancel(self, _session: Session, turn_id: str, *, discard: bool) -> None:
        self.cancels.append((turn_id, discard))


@dataclass
class MemoryFiles:
    """What was put, by session key."""

    put_states: dict[int, SlotState] = field(default_factory=dict)

    def put(self, session_key: int, _epoch: int, _engine_digest: str, state: SlotState) -> bool:
        self.put_states[session_key] = state
        return True


@dataclass
class MemorySnapshots:
    """From which session to which snapshots were copied."""

    copies: list[tuple[str, str]] = field(default_factory=list)

    def keys(self, session: Session) -> list[str]:
        return [f"{session.session_id}/1"]

    def copy(self, source: Session, target: Session) -> None:
        self.copies.append((source.session_id, target.session_id))


@dataclass
class MemoryCaches:
    """Tiers of caches: `found` is what is kept."""

    found: SlotState | None = None
    kept: list[SlotState | None] = field(default_factory=list)
    stored: list[SlotState] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    files: MemoryFiles = field(default_factory=MemoryFiles)
    snapshots: MemorySnapshots = field(default_factory=MemorySnapshots)

    def has_file(self, _session: Session) -> bool:
        return self.found is not None

    def is_kept(self, _session: Session) -> bool:
        return self.found is not None

    async def fetch(self, _session: Session) -> SlotState | None:
        return self.found

    async def do(self, act: Callable[..., Any], *args: Any) -> Any:
        return act(*args)

    def drop(self, session: Session, _snapshots: list[str]) -> None:
        self.dropped.append(session.session_id)

    async def keep(self, _session: Session, state: SlotState | None) -> None:
        self.kept.append(state)

    async def store_snapshot(self, _session: Session, state: SlotState) -> bool:
        self.stored.append(state)
        return True
