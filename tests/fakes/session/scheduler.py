"""A scheduler that does as a test says, and its thread that does at once what is posted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.engine.engine import SlotState
from common.errors import SinkServeError
from runtime_service.decoding.delta import Delta
from runtime_service.domain.turn import FinishReason, Timing, Usage
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.scheduler_events import Listener, NeedsHistory, TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from tests.samples.session_examples import SESSION


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
        tenant, work, listener = self.submitted[-1]
        start, added = self.position, (*work.prompt, *tokens)
        self.position += len(added)
        seen = tenant.history.window.start(self.position)
        usage = Usage(len(work.prompt), len(tokens), self.position, window_start_position=seen)
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
