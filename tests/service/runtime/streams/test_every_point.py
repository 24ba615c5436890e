"""A connection that is lost at every point of a turn, with and without asking again: the turn ran once, or never came.

Bare streams are dropped between any two things that a client does; the network is cut after any number of bytes
under the client of the SDK.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from sinkserve.client import Client, Retry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import Bench, eventually, kinds, tokens_of

TOKENS = 4
TURN: dict[str, Any] = {"text": "hello", "generation": {"max_new_tokens": TOKENS, "ignore_eos": True}}
POINTS = 4 + (1 + TOKENS + 1) + 2  # connect, open, opened, turn; every event; half-close, end
SENT, STARTED = 4, 5  # the point where the turn was sent, and where its first event was read
NOBODY = "127.0.0.1:1"
BYTES_A_CUT = 30
FAST = Retry(first_s=0.001, longest_s=0.01, give_up_after_s=20, attempts_at_first=100)


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes_on", "is_cancelled"])
@pytest.mark.parametrize("again", [True, False], ids=["resend", "no_resend"])
async def test_a_turn_whose_stream_is_dropped_anywhere_ran_once(bench: Bench, again: bool, goes_on: bool) -> None:
    bench.before_step = lambda _: time.sleep(0.002)
    whole = await bench.opened()
    await whole.turn("t", **TURN)
    expected = tokens_of(await whole.until("finished"))
    for point in range(POINTS):
        name = await _created(bench, goes_on)
        fed = _fed(bench)
        before = await _dropped(bench, name, point)
        after = await _asked_again(bench, name) if again else []
        turns = await _at_rest(bench, name)
        possible = {1} if again or point >= STARTED else {0, 1} if point == SENT else {0}
        assert len(turns) in possible
        for turn in turns:
            _check(turn, before, after, expected)
            assert not goes_on or turn.reason == pb.FINISH_REASON_LENGTH
            assert _fed(bench) - fed <= turn.usage.position, "it was not fed twice"


def _check(
    turn: pb.TurnRecord, before: list[pb.ConverseResponse], after: list[pb.ConverseResponse], expected: list[int]
) -> None:
    """What was heard before and after is one run of the turn, and what is kept of it."""
    assert turn.reason in {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_CANCELLED}
    for heard in (before, after):
        assert tokens_of(heard) == expected[: len(tokens_of(heard))]
        assert [event.started.attempt for event in heard if event.HasField("started")] in ([], [1])
        for event in heard:
            if event.HasField("finished"):
                assert (event.finished.reason, event.finished.usage) == (turn.reason, turn.usage)
                assert len(tokens_of(heard)) == turn.usage.generated_tokens
    ends = {event.sequence for event in (*before, *after) if event.HasField("finished")}
    assert len(ends) <= 1
    assert not after or kinds(after)[-1] == "finished"


async def _dropped(bench: Bench, name: str, point: int) -> list[pb.ConverseResponse]:
    """A stream that does so much of a turn and is gone; what it heard."""
    stream = bench.stream()
    acts = [
        stream.call.wait_for_connection,
        lambda: stream.send(open=pb.Open(session=name)),
        stream.next,
        lambda: stream.turn("t", **TURN),
        *[stream.next] * (TOKENS + 2),
        stream.half_close,
        stream.rest,
    ]
    for act in acts[:point]:
        if kinds(stream.events)[-1:] != ["finished"] or act in (stream.half_close, stream.rest):
            await act()
    stream.call.cancel()
    return stream.events


async def _asked_again(bench: Bench, name: str) -> list[pb.ConverseResponse]:
    stream = await bench.resumed(name)
    await stream.turn("t", **TURN)
    events = await stream.until("finished")
    await stream.half_close()
    assert await stream.rest() == []
    return events


async def _at_rest(bench: Bench, name: str) -> list[pb.TurnRecord]:
    """All turns of a session, when none runs and no stream is open."""

    async def nothing_left() -> bool:
        return bench.handle.conversations.streams <= 1 and not bench.handle.engines.loaded[0].turns

    await eventually(nothing_left)
    await bench.handle.shared.background.wait()
    return list((await bench.stub.ListTurns(pb.ListTurnsRequest(session=name))).turns)


async def _created(bench: Bench, goes_on: bool) -> str:
    cancels = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)
    options = None if goes_on else cancels
    new = pb.NewSession(engine="demo", options=options)
    return (await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))).session.name


def _fed(bench: Bench) -> int:
    return sum(len(feed.tokens) for step in bench.engines[0].steps for feed in step)


async def test_a_turn_under_which_the_network_is_cut_at_any_byte_ran_once(bench: Bench) -> None:
    expected = await bench.said("hello")
    cut = count = 0
    while cut == count:  # until the connection lives as long as the turn
        count += 1
        fed = _fed(bench)
        limits: list[int | None] = [count * BYTES_A_CUT]
        async with (
            FlakyProxy(bench.handle.address, limits) as proxy,
            Client(proxy.address, NOBODY, retry=FAST) as client,
        ):
            async with client.conversation("demo", session_id=f"s{count}") as conversation:
                turn = await conversation.say("hello", max_new_tokens=6)
                await turn.wait()
            cut += proxy.cuts
        assert (list(turn.token_ids), turn.attempt) == (expected, 1)
        (kept,) = await _at_rest(bench, f"sessions/s{count}")
        assert kept.turn_id == turn.id
        assert _fed(bench) - fed <= kept.usage.position
    assert count > 10
