"""What a session in memory needs, without threads, a database or an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from common.errors import SinkServeError
from common.spec.published_engine import PublishedEngine
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.session import Session, SessionOptions
from runtime_service.domain.turn import TurnInput, TurnRequest
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.scheduling.limits import Limits
from runtime_service.settings import RuntimeSettings
from runtime_service.tasks.background import Background
from runtime_service.turns.events import Event
from runtime_service.turns.known import KnownTurn
from runtime_service.turns.shared import Shared
from tests.fakes.session.scheduler import DirectThread, ScriptedScheduler
from tests.fakes.session.storage import DirectWriter, MemoryCaches, MemoryClaims, MemoryRepository, MemoryUpdates
from tests.samples.session_examples import NOON, SESSION
from tests.samples.whole_manifests import DIGEST, make_manifest

GEOMETRY = Geometry(sinks=4, window=8, chunk=4, slots=2)


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
            quotas=cast("Any", None),
            writer=cast("Any", DirectWriter()),
            background=Background(),
            caches=cast("Any", self.caches),
            settings=RuntimeSettings(**settings),
            recall_index=cast("Any", None),
            past_turns=cast("Any", None),
        )

    async def resolve(self, _reference: str, _field: str, _scope: object = None) -> PublishedEngine:
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
