"""Recall while sessions move, are rewound and deleted: between the search and what is fed, anything may happen."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.pair.dying import AT_RECALL, dying
from tests.service.replicas.pair.replicas import Replicas, end_lease
from tests.service.runtime.runtime import Bench, Stream, reason_of

SHORT = {"max_new_tokens": 2}
OPTIONS = pb.SessionOptions(recall_tokens=16)


async def _told(bench: Bench) -> Stream:
    stream = await bench.opened(session_id="s", options=OPTIONS)
    await stream.said("fact", "Ann has 17", generation=SHORT)
    for number in range(4):
        await stream.said(f"other{number}", f"{'abcd'[number]} good day to you", generation=SHORT)
    return stream


async def _recalled(stream: Stream, turn_id: str, text: str = "who has 17?") -> list[str]:
    await stream.turn(turn_id, text=text, generation=SHORT)
    events = await stream.until("finished")
    started = [event.started for event in events if event.WhichOneof("event") == "started"]
    return [turn.turn_id for turn in started[-1].recalled]


@pytest.fixture
def held(both: Replicas, monkeypatch: pytest.MonkeyPatch) -> Callable[[Bench], tuple[threading.Event, threading.Event]]:
    """Have a server wait between what it found and what it reads of it: when it is there, and when it may go on."""

    def hold(bench: Bench) -> tuple[threading.Event, threading.Event]:
        past, found, may_read = bench.handle.shared.past_turns, threading.Event(), threading.Event()
        read = past.tokens

        def read_late(*asked: Any) -> Any:
            found.set()
            may_read.wait(10)
            return read(*asked)

        monkeypatch.setattr(past, "tokens", read_late)
        return found, may_read

    return hold


async def test_a_turn_whose_server_is_left_between_search_and_feed_chooses_anew_where_it_goes_on(
    both: Replicas, held: Callable[[Bench], tuple[threading.Event, threading.Event]]
) -> None:
    stream = await _told(both.here)
    found, may_read = held(both.here)
    await stream.turn("q", text="who has 17?", generation=SHORT)
    await asyncio.to_thread(found.wait, 10)
    moved = await both.there.resumed("sessions/s")
    may_read.set()
    assert await _recalled(moved, "q") == ["fact"]
    listed = (await both.there.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"))).turns
    assert [turn.turn_id for turn in listed[-2:]] == ["other3", "q"]
    assert listed[-1].usage.recalled_tokens > 0


@pytest.mark.long
async def test_a_turn_whose_server_is_killed_between_search_and_feed_ends_once_and_the_same_elsewhere(
    both: Replicas,
) -> None:
    await (await _told(both.here)).half_close()
    await both.here.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f"))
    async with dying(both.here, AT_RECALL) as (first, replica, process):
        stream = await first.resumed("sessions/s")
        await stream.turn("q", text="who has 17?", generation=SHORT)
        assert await process.wait() == -signal.SIGKILL
    end_lease(both.there, replica)
    moved = await both.there.resumed("sessions/s")
    assert await _recalled(moved, "q") == ["fact"]
    fork = await both.there.resumed("sessions/f")
    assert await _recalled(fork, "q") == ["fact"]
    turns, others = [
        (await both.there.stub.ListTurns(pb.ListTurnsRequest(session=f"sessions/{name}"))).turns for name in "sf"
    ]
    assert [turn.turn_id for turn in turns] == ["fact", *(f"other{number}" for number in range(4)), "q"]
    assert (turns[-1].text, turns[-1].recalled) == (others[-1].text, others[-1].recalled)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_turn_that_is_taken_back_or_deleted_while_it_is_being_recalled_is_never_fed(
    both: Replicas, held: Callable[[Bench], tuple[threading.Event, threading.Event]], *, deleted: bool
) -> None:
    stream = await _told(both.here)
    found, may_read = held(both.here)
    await stream.turn("q", text="who has 17?", generation=SHORT)
    await asyncio.to_thread(found.wait, 10)
    if deleted:
        await both.there.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    else:
        await both.there.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="fact", drop_turn=True))
    may_read.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.rest()
    assert reason_of(caught.value) in {"SESSION_DELETED", "SESSION_TAKEN_OVER"}
    if deleted:
        again = await both.there.opened(session_id="s", options=OPTIONS)
    else:
        again = await both.there.resumed("sessions/s")
    for number in range(5):
        assert await _recalled(again, f"again{number}", f"{'abcde'[number]} good day to you") == []
    assert "fact" not in await _recalled(again, "q", "who has 17?")


async def test_a_pin_that_another_server_sets_is_gone_by_within_a_moment(both: Replicas) -> None:
    stream = await _told(both.here)
    pin = pb.PinTurnRequest(session="sessions/s", turn_id="other0")
    with pytest.raises(grpc.aio.AioRpcError, match="PINS_FULL|a quarter"):
        await both.there.stub.PinTurn(pin)
    await both.there.stub.PinTurn(pb.PinTurnRequest(session="sessions/s", turn_id="fact"))
    for number in range(100):
        if "fact" in await _recalled(stream, f"t{number}", "something else"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the pin never came")
