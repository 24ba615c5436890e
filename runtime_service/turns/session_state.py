"""What is in memory of one session, and how it is written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from common.errors import SinkServeError, Unavailable
from common.retry import retry
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.domain.window_view import WholeTurns
from runtime_service.engines.loaded_engine import LoadedEngine, unloaded
from runtime_service.recall.session_recall import SessionRecall
from runtime_service.scheduling.slots import Residence, Tenant
from runtime_service.settings import RuntimeSettings
from runtime_service.turns.ephemeral import EphemeralTurns, TurnHistory
from runtime_service.turns.events import EventLog
from runtime_service.turns.shared import Shared

TRIES, RETRY_S = 50, 0.2
"""How often a turn tries a database that is away, and the seconds between.

Tries are counted, not timed, because the clock goes on while a process is paused."""
T = TypeVar("T")


@dataclass(eq=False)
class SessionState:
    """Belongs to the event loop, except `tenant`, which the scheduler owns while a turn runs.

    `session` is its row as last written. `closed`: it leaves memory, because of `closed_by` where that is an error.
    `cache_is_kept`: on disk or in a snapshot, when it was opened or since.
    """

    session: Session
    engine: LoadedEngine
    shared: Shared
    history: TurnHistory
    log: EventLog
    tenant: Tenant
    recall: SessionRecall
    whole_turns: WholeTurns
    cache_is_kept: bool = False
    closed: bool = False
    closed_by: SinkServeError | None = None

    @classmethod
    def of(cls, session: Session, engine: LoadedEngine, shared: Shared) -> SessionState:
        """The state of a session that was claimed now."""
        history: TurnHistory = shared.repository
        if not session.is_kept:
            history = EphemeralTurns(session, shared.repository, engine.limits.tokens_to_replay(session.window))
        log = EventLog(
            session.epoch, session.last_sequence, shared.settings.kept_events, shared.settings.kept_event_bytes
        )
        key = session.key if session.is_kept else 0
        tenant = Tenant(session.name, _tokens(session), key=key, epoch=session.epoch, principal=session.principal)
        recall = SessionRecall(shared.recall_index, shared.past_turns, shared.ranker)
        return cls(session, engine, shared, history, log, tenant, recall, WholeTurns(session.window.sinks))

    @property
    def residence(self) -> Residence:
        """Where its cache is."""
        return self.tenant.residence

    @property
    def recomputes(self) -> bool:
        """Whether its cache has to be computed again from its tokens before the next turn."""
        fresh = self.session.position == len(self.session.opening)
        kept = self.cache_is_kept or self.shared.caches.has_file(self.session)
        return self.residence is Residence.STORED and not fresh and not kept

    @property
    def keeps_snapshots(self) -> bool:
        """Whether its cache outlives this process."""
        return self.session.options.durability is Durability.TOKENS_AND_KV

    @property
    def settings(self) -> RuntimeSettings:
        """Of the service."""
        return self.shared.settings

    def check_open(self) -> None:
        """Raise why it takes no more turns, if it does not."""
        if self.closed_by is not None:
            raise self.closed_by
        if self.closed or self.engine.closed:
            raise unloaded(self.engine.published.reference)

    def in_background(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Begin work on the session that goes on although the caller is cancelled."""
        self.shared.background.start(work, f"{what} of {self.session.name}")

    async def write(self, act: Callable[[], T]) -> T:
        """Call `act` in the thread that writes to the database."""
        return await self.shared.writer.do(act)

    async def write_patiently(self, act: Callable[[], T]) -> T:
        """As `write`, and again where the database is away; `act` may be done twice."""
        return await patiently(partial(self.write, act))


async def patiently(act: Callable[[], Awaitable[T]]) -> T:
    """Await `act`, and again for a while where the database is away."""
    return await retry(act, lambda error: isinstance(error, Unavailable), repeat(RETRY_S, TRIES - 1))


def _tokens(session: Session) -> TokenHistory:
    if session.position == len(session.opening):
        return TokenHistory(session.window, session.opening)
    return TokenHistory.stored(session.window, session.position)
