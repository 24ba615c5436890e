"""Streams that break, come back and take over, over a real socket: what runs goes on, stops, or is told again."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import CANCELS, TEN
from tests.service.runtime.runtime import ENDLESS, Bench, kinds, text_of, tokens_of
from tests.service.runtime.waits import settled, slowly


@pytest.mark.parametrize("told", [True, False], ids=["after_sequence", "resend"])
async def test_a_stream_dropped_at_any_event_comes_back_to_the_same_turn(bench: Bench, told: bool) -> None:
    whole = await bench.opened()
    await whole.turn(generation=TEN)
    expected = tokens_of(await whole.until("finished"))
    bench.before_step = slowly
    for seen in range(13):
        stream = await bench.opened()
        await stream.turn("t", generation=TEN)
        before: list[pb.ConverseResponse] = []
        while len(before) < seen and "finished" not in kinds(before):
            before.append(await stream.next())
        stream.call.cancel()
        last = before[-1].sequence if before else 0
        back = await bench.resumed(stream.session, last if told else None)
        await back.turn("t", generation=TEN)
        if told and "finished" in kinds(before):
            after = await back.until("finished")
            assert tokens_of(after) == expected
            continue
        after = await back.until("finished")
        assert tokens_of([*before, *after] if told else after) == expected
        assert not told or all(event.sequence > last for event in after)
        await back.half_close()
        assert await back.rest() == []
        session = (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session
        assert session.turns == 1


async def test_a_lost_stream_cancels_its_turns_where_the_session_says_so(bench: Bench) -> None:
    stream = await bench.opened(options=CANCELS)
    await stream.turn("t", generation=ENDLESS)
    await stream.turn("next")
    await stream.first_delta()
    stream.call.cancel()
    last = await settled(bench, stream.session)
    assert (last.turn_id, last.reason) == ("next", pb.FINISH_REASON_CANCELLED)
    steps = len(bench.engines[0].steps)
    await asyncio.sleep(0.05)
    assert len(bench.engines[0].steps) == steps


async def test_a_lost_stream_leaves_turns_alone(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    await stream.until("started")
    stream.call.cancel()
    assert (await settled(bench, stream.session)).reason == pb.FINISH_REASON_LENGTH


async def test_a_deadline_is_a_lost_stream(bench: Bench) -> None:
    bench.before_step = slowly
    stream = bench.stream(timeout=3.0)
    await stream.open(options=CANCELS)
    await stream.turn(generation=ENDLESS)
    code, _ = await stream.failure()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await settled(bench, stream.session)).reason == pb.FINISH_REASON_CANCELLED


async def test_who_opens_a_session_takes_it_over_with_its_running_turn(bench: Bench) -> None:
    bench.before_step = slowly
    first = await bench.opened()
    await first.turn("t", generation={"max_new_tokens": 60, "ignore_eos": True})
    delta = (await first.until("delta"))[-1]
    second = bench.stream()
    opened = await second.resume(first.session, delta.sequence)
    assert opened.resumed
    code, reason = await first.failure()
    assert (code, reason) == (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
    missed = await second.until("finished")
    heard = [event for event in first.events if event.sequence <= delta.sequence]
    assert missed[-1].finished.reason == pb.FINISH_REASON_LENGTH
    assert len(tokens_of([*heard, *missed])) == 60


async def test_events_that_are_not_kept_any_more_are_out_of_range(bench: Bench) -> None:
    await bench.stop()
    bench.settings["kept_events"] = 16
    await bench.start()
    stream = await bench.opened()
    await stream.turn("t", generation={"max_new_tokens": 40, "ignore_eos": True})
    events = await stream.until("finished")
    for _ in range(6):  # of each at least three events stay: how many the long reply has depends on who is faster
        await stream.turn()
        await stream.until("finished")
    late = bench.stream()
    await late.send(open=pb.Open(session=stream.session, after_sequence=events[0].sequence))
    assert await late.failure() == (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_EXPIRED")
    again = await bench.resumed(stream.session)
    await again.turn("t", generation={"max_new_tokens": 40, "ignore_eos": True})
    retold = await again.until("finished")
    assert kinds(retold) == ["started", "delta", "finished"]
    assert (tokens_of(retold), text_of(retold)) == (tokens_of(events), text_of(events))
    assert retold[-1] == events[-1]
