"""A runtime that stops and starts again: turns finish or start again, and sessions go on where they were."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from runtime_service.decoding.text import Text
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, info, kinds, tokens_of
from tests.service.runtime.waits import slowly


async def test_a_graceful_stop_lets_the_turn_finish_and_says_go_away(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation={"max_new_tokens": 40, "ignore_eos": True})
    await stream.first_delta()
    stopping = asyncio.create_task(bench.handle.stop())
    seen = await stream.until("go_away")
    await stream.turn("late")
    code, reason = await stream.failure()
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await stopping
    bench.runtime = None
    assert "go_away" in kinds(seen)
    finished = [event.finished for event in stream.events if event.HasField("finished")]
    assert [turn.reason for turn in finished] == [pb.FINISH_REASON_LENGTH]
    rejected = [event.rejected for event in stream.events if event.HasField("rejected")]
    assert [info(turn.error).reason for turn in rejected] == ["DRAINING"]


async def test_a_turn_that_outlives_the_grace_starts_again_and_its_first_attempt_is_void(bench: Bench) -> None:
    expected = await bench.said("hello")
    bench.settings["drain_grace_s"] = 0.05
    await bench.stop()
    await bench.start()
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation={"max_new_tokens": 300, "ignore_eos": True})
    await stream.turn("next")
    last = (await stream.until("delta"))[-1].sequence
    await bench.stop()
    bench.before_step = None
    await bench.start()
    back = await bench.resumed(stream.session, last)
    events = await back.until("finished")
    assert kinds(events)[0] == "started"
    assert events[0].started.attempt == 2
    assert events[0].sequence > last
    assert len(tokens_of(events)) == 300
    assert tokens_of(events)[:6] == expected
    following = await back.until("finished")
    assert following[0].started.attempt == 1


async def test_a_restarted_runtime_goes_on_where_it_was(bench: Bench) -> None:
    texts = ["one", "two", "three", "four", "five"]
    expected = await bench.said(*texts)
    stream = await bench.opened(labels={"who": "me"})
    for text in texts[:-1]:
        await stream.turn(text=text)
        finished = (await stream.until("finished"))[-1]
    await bench.stop()
    await bench.start()
    back = bench.stream()
    opened = await back.resume(stream.session, finished.sequence)
    assert (opened.resumed, opened.kv_recomputed, opened.events_replayed) == (True, True, False)
    assert opened.session.labels == {"who": "me"}
    assert opened.session.position == finished.finished.usage.position
    await back.turn(text=texts[-1])
    events = await back.until("finished")
    assert tokens_of(events) == expected
    assert events[0].sequence > finished.sequence


async def test_turns_that_start_again_are_encoded_outside_the_event_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings["drain_grace_s"] = 0.01
    await bench.stop()
    await bench.start()
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=ENDLESS)
    await stream.first_delta()
    await bench.stop()
    await bench.start()
    user, threads = Text.user, []

    def noted(text: Text, content: str, *, no_reply: bool = False) -> tuple[int, ...]:
        threads.append(threading.get_ident())
        return user(text, content, no_reply=no_reply)

    monkeypatch.setattr(Text, "user", noted)
    await bench.resumed(stream.session)
    assert threads
    assert threading.get_ident() not in threads
