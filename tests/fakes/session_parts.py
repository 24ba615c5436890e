"""What a session in memory needs, without threads, a database or an engine: a scheduler that does as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from common.engine.engine import SlotState
from common.errors import SinkServeError
from common.spec.published_engine import PublishedEngine
from common.window import Geometry
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.text import Text
from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.session import Session, SessionOptions
from runtime_service.domain.session_update import SessionUpdate
from runtime_service.domain.turn import FinishReason, Timing, Turn, TurnInput, TurnRequest, Usage
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.scheduler_events import Listener, NeedsHistory, TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.claims import Claimed
from runtime_service.storage.repository import session_not_found
from runtime_service.tasks.background import Background
from runtime_service.turns.events import Event
from runtime_service.turns.known import KnownTurn
from runtime_service.turns.shared import Shared
from tests.samples.session_examples import NOON, SESSION
from tests.samples.whole_manifests import DIGEST, make_manifest

GEOMETRY = Geometry(sinks=4, window=8, chunk=4, slots=2)


class ScriptedScheduler:
    """`submitted` are all turns that came, `calls` what else was asked for; `cache` is what a tenant has."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Tenant, Work, Listener]] = []
        self.calls: list[tuple[object, ...]] = []
        self.cache: SlotState | None = None
        self.position = SESSION.position
        self._came = asyncio.Event()

    @property
    def turn_ids(self) -> list[str]:
        """Of the turns that came."""
        return [work.turn_id for _, work, _ in self.submitted]

    def submit(self, tenant: Tenant, work: Work, listener: Listener) -> None:
        self.submitted.append((tenant, work, listener))
        self._came.set()

    async def come(self, count: int) -> None:
        """Wait until so many turns came in all."""
        while len(self.submitted) < count:
            self._came.clear()
            await self._came.wait()

    def cancel_turn(self, _tenant: Tenant, turn_id: str, *, discard: bool) -> None:
        self.calls.append(("cancel", turn_id, discard))

    def pause(self, _tenant: Tenant, *, paused: bool) -> None:
        self.calls.append(("pause", paused))

    def refill(self, _tenant: Tenant, *given: object) -> None:
        self.calls.append(("refill", *given))

    def fail_turn(self, _tenant: Tenant, error: SinkServeError) -> None:
        self.calls.append(("fail", error.reason))

    def export_cache(self, _tenant: Tenant) -> SlotState | None:
        return self.cache

    def release_tenant(self, _tenant: Tenant, *, keep: bool) -> SlotState | None:
        return self.cache if keep else None

    # What a test lets it do with the turn that came last

    def admit(self) -> None:
        self._listener(TurnAdmitted())

    def write(self, text: str, *token_ids: int) -> None:
        self._listener(Delta(text, token_ids))

    def ask_history(self, tokens: int) -> None:
        self._listener(NeedsHistory(tokens))

    def end(self, *tokens: int, reason: FinishReason = FinishReason.STOP) -> None:
        """End it; its prompt and `tokens` are added."""
        _, work, listener = self.submitted[-1]
        start, added = self.position, (*work.prompt, *tokens)
        self.position += len(added)
        usage = Usage(len(work.prompt), len(tokens), self.position)
        listener(Outcome(reason, usage, Timing(), start, added))

    @property
    def _listener(self) -> Listener:
        return self.submitted[-1][2]


class DirectThread:
    """An engine's thread that does at once what is posted."""

    def __init__(self, scheduler: ScriptedScheduler) -> None:
        self.scheduler = scheduler
        self.stopped = False

    def post(self, act: Callable[[Any], None]) -> None:
        act(self.scheduler)

    async def post_and_wait(self, act: Callable[[Any], None]) -> None:
        act(self.scheduler)

    async def stop_engine(self) -> None:
        self.stopped = True


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

    def create(self, session: Session, _owner: str | None = None) -> Session:
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

    def finish_turn(self, _session: Session, turn: Turn, _tokens: Sequence[int]) -> None:
        self._write(f"finish {turn.turn_id}", turn)

    def note_progress(self, _session: Session) -> None:
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


class Listening:
    """A subscriber that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.told: list[object] = []

    @property
    def kinds(self) -> list[str]:
        """Of the events, in order."""
        return [type(event.body).__name__ for event in self.events]

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_idle(self) -> None:
        self.told.append("idle")

    def on_accepted(self, turn_id: str, known: KnownTurn | None) -> None:
        self.told.append((turn_id, None if known is None else known.ended))

    def on_drain(self, grace_s: float) -> None:
        self.told.append(("drain", grace_s))

    def on_lost(self, error: SinkServeError) -> None:
        self.told.append(error.reason)


class SessionParts:
    """All of the above, put together for one engine that takes token ids."""

    def __init__(self, **settings: Any) -> None:
        self.scheduler = ScriptedScheduler()
        self.thread = DirectThread(self.scheduler)
        self.repository = MemoryRepository()
        self.claims = MemoryClaims(self.repository)
        self.caches = MemoryCaches()
        manifest = make_manifest(GEOMETRY)
        self.engine = LoadedEngine(
            published=PublishedEngine(manifest, DIGEST, NOON),
            text=Text(None, manifest),
            thread=cast("Any", self.thread),
            limits=Limits(layers=1, max_replay_tokens=100, parked_bytes=0, stall_s=0.1),
            slots=GEOMETRY.slots,
            loaded_at=NOON,
        )
        self.shared = Shared(
            repository=cast("Any", self.repository),
            claims=cast("Any", self.claims),
            updates=cast("Any", MemoryUpdates(self.repository)),
            writer=cast("Any", DirectWriter()),
            background=Background(),
            caches=cast("Any", self.caches),
            settings=RuntimeSettings(**settings),
        )

    async def resolve(self, _reference: str, _field: str) -> PublishedEngine:
        """As the registry of engines does, which has one."""
        return self.engine.published

    named = resolve

    async def serving(self, _published: PublishedEngine) -> LoadedEngine:
        """As the registry of engines does."""
        return self.engine

    def session(self, session_id: str = "a", **options: Any) -> Session:
        """A session with two tokens, written."""
        chosen = SessionOptions(**{"sink_tokens": 2, "window_tokens": 8, **options})
        return self.repository.create(replace(SESSION, session_id=session_id, options=chosen, engine_name="demo"))


def request(turn_id: str, *token_ids: int, **fields: Any) -> TurnRequest:
    """A turn of token ids."""
    return TurnRequest(turn_id, TurnInput(token_ids=token_ids or (5, 6)), RequestedOptions(max_new_tokens=4), **fields)
