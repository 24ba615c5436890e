"""Silence is when nothing came: not what came just as the time was up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime_service.api.outbox import Outbox
from runtime_service.sessions.events import Event, Heartbeat


@pytest.mark.parametrize("comes", [True, False])
async def test_what_comes_as_the_time_is_up_is_no_silence(comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, event = Outbox(8, lambda _: None), Event(1, Heartbeat())

    @asynccontextmanager
    async def up(_: float) -> AsyncIterator[None]:
        if comes:
            outbox.put(event)
        raise TimeoutError
        yield

    monkeypatch.setattr(asyncio, "timeout", up)
    assert await outbox.take(30.0) == ([event] if comes else [])
