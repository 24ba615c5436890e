"""Turns that wait take so much memory and no more, of a session and of all."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Reason, ResourceExhausted
from runtime_service.domain.turn import TOKEN_BYTES
from runtime_service.sessions.live_session import LiveSession
from tests.fakes.session.parts import Listening, SessionParts, request

IDS = (5,) * 7
SIZE = TOKEN_BYTES * len(IDS)


def live_session(parts: SessionParts, name: str) -> LiveSession:
    return LiveSession(parts.session(name), parts.engine, parts.shared, 1, lambda *_: None)


@pytest.mark.parametrize(
    ("bounds", "other", "reason"),
    [
        ({"waiting_session_bytes": 2 * SIZE}, False, Reason.TURN_QUEUE_FULL),
        ({"waiting_bytes": 3 * SIZE}, True, Reason.CAPACITY_EXHAUSTED),
    ],
)
async def test_one_turn_too_many_is_refused_by_the_bound(bounds: dict[str, int], other: bool, reason: Reason) -> None:
    parts = SessionParts(**bounds)
    live, stream = live_session(parts, "a"), Listening()
    for number in range(3):  # one runs, two wait
        await live.accept_turn(request(f"t{number}", *IDS), stream)
        await asyncio.sleep(0)
    asked = live_session(parts, "b") if other else live
    with pytest.raises(ResourceExhausted) as caught:
        await asked.accept_turn(request("more", *IDS), stream)
    assert caught.value.reason is reason
    assert caught.value.metadata["bound"] == next(iter(bounds))
    assert str(next(iter(bounds.values()))) in caught.value.message
    assert parts.shared.waiting.total == 3 * SIZE
    await live.unload()
    assert parts.shared.waiting.total == 0


async def test_a_turn_that_is_alone_is_taken_however_long_it_is() -> None:
    parts = SessionParts(waiting_session_bytes=0, waiting_bytes=0)
    live = live_session(parts, "a")
    await live.accept_turn(request("t", *IDS), Listening())
    assert parts.shared.waiting.total == SIZE
    await live.unload()
