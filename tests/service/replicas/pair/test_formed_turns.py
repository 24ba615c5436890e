"""Replies with a form, and replies that call tools, whose server dies in the middle: they end once, and whole."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.nightly import LONG, one_in
from tests.service.replicas.pair.dying import dying
from tests.service.replicas.pair.replicas import Replicas, end_lease
from tests.service.runtime.runtime import Stream, text_of
from tests.service.runtime.tooled import TOOLS, WINDOW, calling, joined

SCHEMA = {"type": "array", "items": {"enum": ["one", "two", 3]}, "minItems": 4, "maxItems": 6}
FORMED = {"response_format": pb.ResponseFormat(json_schema=json.dumps(SCHEMA)), "temperature": 1.0, "seed": 4}
FORMED["max_new_tokens"] = 400


async def _ended(stream: Stream, generation: dict[str, Any]) -> tuple[str, list[pb.ToolCall], pb.TurnFinished]:
    """Text and calls as their pieces come to, and the end, of a turn that is sent, perhaps again."""
    await stream.turn("t", generation=generation)
    events = await stream.until("finished")
    last = max(index for index, event in enumerate(events) if event.WhichOneof("event") == "started")
    return text_of(events[last:]), joined(events[last:]), events[-1].finished


@pytest.mark.parametrize("generation", one_in(2, [calling(), FORMED], LONG), ids=["tools", "form"])
async def test_a_turn_whose_server_is_killed_in_its_reply_ends_once_and_whole_elsewhere(
    both: Replicas, generation: dict[str, Any]
) -> None:
    await (await both.here.opened(session_id="s", tools=TOOLS, options=WINDOW)).half_close()
    await both.here.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f"))
    async with dying(both.here, "20") as (first, replica, process):
        begun = await first.resumed("sessions/s")
        await begun.turn("t", generation=generation)
        assert await process.wait() == -signal.SIGKILL
    end_lease(both.there, replica)
    moved = await both.there.resumed("sessions/s")
    text, calls, finished = await _ended(moved, generation)
    assert [event.started.attempt for event in moved.events if event.HasField("started")] == [2]
    if calls:
        assert (finished.reason, calls[0].incomplete, text) == (pb.FINISH_REASON_TOOL_CALLS, False, "")
    else:
        assert finished.format_matched
        assert len(json.loads(text)) in range(4, 7)
    assert list(finished.tool_calls) == calls
    assert (text, calls) == (await _ended(await both.there.resumed("sessions/f"), generation))[:2]
    (listed,) = (await both.there.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"))).turns
    assert (listed.reply, list(listed.tool_calls)) == (text, calls)
