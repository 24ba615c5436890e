"""Streams that end, break, come back and take over, over a real socket: what runs goes on, stops, or is told again."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from runtime_service.api.stream import ConversationStream
from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, info, kinds, text_of, tokens_of

CANCELS = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)
TEN = {"max_new_tokens": 10, "ignore_eos": True}


def slowly(_feeds: object) -> None:
    time.sleep(0.003)


async def settled(bench: Bench, session: str) -> pb.TurnRecord:
    """The session's last turn, once it has ended."""
    turns: list[pb.TurnRecord] = []

    async def has_ended() -> bool:
        turns[:] = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns
        return bool(turns and turns[-1].reason)

    await eventually(has_ended)
    return turns[-1]


async def quiet(bench: Bench) -> None:
    """Wait until no stream is open and no turn runs."""

    async def nothing_left() -> bool:
        return not bench.handle.conversations.streams and not bench.handle.engines.loaded[0].turns

    await eventually(nothing_left)
    await bench.handle.shared.background.wait()


# A stream that is lost


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
    stream = bench.stream(timeout=0.5)
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


# A turn that is sent again


async def test_the_same_turn_never_runs_twice(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    first = await stream.until("finished")
    steps = len(bench.engines[0].steps)
    await stream.turn("t", generation=TEN)
    again = await stream.until("finished")
    assert tokens_of(again) == tokens_of(first)
    assert again[-1] == first[-1]
    assert len(bench.engines[0].steps) == steps


async def test_another_turn_under_the_same_id_is_refused(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t")
    await stream.finished()
    await stream.turn("t", text="something else")
    rejected = await stream.rejected()
    assert rejected.error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert info(rejected.error).reason == "TURN_ID_REUSED"


async def test_a_running_turn_that_is_sent_again_is_told_once(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    await stream.turn("t", generation=TEN)
    events = await stream.until("finished")
    assert len(tokens_of(events)) == 10
    await stream.half_close()
    assert await stream.rest() == []


async def test_a_running_turn_is_heard_to_its_end_however_often_others_are_sent_again(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("old")
    await stream.finished()
    await stream.turn("long", generation=ENDLESS)
    await stream.first_delta()
    for _ in range(40):
        await stream.turn("old")
    await stream.send(cancel=pb.CancelTurn(turn_id="long"))
    while (await stream.finished()).turn_id != "long":
        pass


# Streams that end


async def test_a_stream_that_took_over_ends_when_the_turn_before_it_was_only_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=3600))
    first = await bench.opened(options=hour)
    await first.turn("t")
    await first.finished()
    asked, answer, half_closed = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, repository, no_more = asyncio.get_running_loop(), bench.handle.shared.repository, ConversationStream.no_more
    find_turn = repository.find_turn

    def slow_find(key: int, turn_id: str) -> Turn | None:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        return find_turn(key, turn_id)

    def noted(conversation: ConversationStream) -> None:
        no_more(conversation)
        half_closed.set()

    monkeypatch.setattr(repository, "find_turn", slow_find)
    monkeypatch.setattr(ConversationStream, "no_more", noted)
    await first.turn("t")
    await asked.wait()
    second = await bench.resumed(first.session)
    await second.half_close()
    await half_closed.wait()
    answer.set()
    assert await second.rest() == []

    async def expires() -> bool:
        session = (await bench.stub.GetSession(pb.GetSessionRequest(name=first.session))).session
        return session.HasField("expire_time")

    await eventually(expires)


async def test_after_a_half_close_accepted_turns_finish_and_the_session_lives(bench: Bench) -> None:
    stream = await bench.opened()
    for turn in ("a", "b", "c"):
        await stream.turn(turn)
    await stream.half_close()
    finished = [event.finished.turn_id for event in await stream.rest() if event.HasField("finished")]
    assert finished == ["a", "b", "c"]
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.turns == 3


async def test_close_ends_the_stream_after_the_turns_and_may_delete_the_session(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a")
    await stream.send(close=pb.Close(delete_session=True))
    assert kinds(await stream.rest())[-1] == "finished"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_that_never_opens_anything_ends_well(bench: Bench) -> None:
    stream = bench.stream()
    await stream.half_close()
    assert await stream.rest() == []


async def test_deleting_a_session_ends_its_stream_and_its_turn(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn(generation=ENDLESS)
    await stream.first_delta()
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name=stream.session))
    assert await stream.failure() == (grpc.StatusCode.ABORTED, "SESSION_DELETED")
    assert bench.handle.engines.loaded[0].slots_in_use == 0


async def test_a_silent_stream_gets_heartbeats(bench: Bench) -> None:
    await bench.stop()
    bench.settings["heartbeat_s"] = 0.05
    await bench.start()
    stream = await bench.opened()
    assert kinds([await stream.next(), await stream.next()]) == ["heartbeat"] * 2


# Cancels


async def test_a_cancelled_turn_keeps_what_was_said(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=ENDLESS)
    events = await stream.until("delta")
    await stream.send(cancel=pb.CancelTurn(turn_id="other"))
    await stream.send(cancel=pb.CancelTurn(turn_id="t"))
    events += await stream.until("finished")
    finished = events[-1].finished
    assert finished.reason == pb.FINISH_REASON_CANCELLED
    assert finished.usage.generated_tokens == len(tokens_of(events))
    prompt = events[0].started.prompt_tokens
    assert finished.usage.position == 1 + prompt + len(tokens_of(events)) + 1
    await stream.turn()
    assert (await stream.finished()).usage.generated_tokens == 6


async def test_a_discarded_turn_leaves_no_trace(bench: Bench) -> None:
    expected = await bench.said("hello", "hello")
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn(text="hello")
    position = (await stream.finished()).usage.position
    await stream.turn("t", text="something else", generation=ENDLESS)
    for _ in range(12):
        await stream.first_delta()
    await stream.send(cancel=pb.CancelTurn(turn_id="t", discard=True))
    finished = await stream.finished()
    assert (finished.reason, finished.usage.position) == (pb.FINISH_REASON_CANCELLED, position)
    await stream.turn(text="hello")
    assert tokens_of(await stream.until("finished")) == expected


async def test_a_waiting_turn_can_be_cancelled(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a", generation=ENDLESS)
    await stream.first_delta()
    await stream.turn("b")
    await stream.send(cancel=pb.CancelTurn(turn_id="b"))
    await stream.send(cancel=pb.CancelTurn(turn_id="a"))
    assert [(await stream.finished()).reason for _ in "ab"] == [pb.FINISH_REASON_CANCELLED] * 2
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session
    assert session.turns == 2


# Clients that come and go


async def test_a_hundred_clients_that_come_and_go_leave_nothing_behind(bench: Bench) -> None:
    bench.before_step = slowly
    dice = random.Random(7)
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()

    async def visit(number: int) -> None:
        stream = bench.stream()
        try:
            await stream.open(session_id=f"visitor-{number}", options=CANCELS)
            for _ in range(dice.randrange(3)):
                await stream.turn(generation={"max_new_tokens": dice.randrange(1, 200), "ignore_eos": True})
            for _ in range(dice.randrange(6)):
                await asyncio.wait_for(stream.next(), dice.random() / 4)
            if dice.random() < 0.3:
                await stream.send(close=pb.Close(delete_session=True))
                await asyncio.wait_for(stream.rest(), dice.random() / 4)
        except TimeoutError:
            pass
        finally:
            stream.call.cancel()

    for _ in range(10):
        visitors = [asyncio.create_task(visit(dice.randrange(60))) for _ in range(10)]
        for visitor in dice.sample(visitors, 3):
            asyncio.get_running_loop().call_later(dice.random() / 5, visitor.cancel)
        await asyncio.gather(*visitors, return_exceptions=True)
    await quiet(bench)
    await asyncio.sleep(0.05)
    assert not any(live.busy for live in bench.handle.sessions.live)
    assert len(asyncio.all_tasks()) <= tasks
    assert threading.active_count() <= threads + 8  # of the pool that asyncio keeps
    steps = len(bench.engines[0].steps)
    await asyncio.sleep(0.05)
    assert len(bench.engines[0].steps) == steps


async def test_a_client_that_does_not_read_pauses_its_own_turn_and_then_loses_its_stream(bench: Bench) -> None:
    await bench.stop()
    bench.settings |= {"unread_events": 4, "slow_reader_s": 0.4}
    await bench.start()
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    async with grpc.aio.insecure_channel(bench.handle.address, options=options) as narrow:
        call = narrow.stream_stream(
            "/sinkserve.runtime.v1.ConversationService/Converse",
            request_serializer=pb.ConverseRequest.SerializeToString,
            response_deserializer=pb.ConverseResponse.FromString,
        )()
        deaf = Stream(call)
        await deaf.open(options=CANCELS)
        await deaf.turn(generation={**ENDLESS, "logprobs": 20})
        other = await bench.opened()
        await other.turn()
        await other.finished()
        assert (await settled(bench, deaf.session)).reason == pb.FINISH_REASON_CANCELLED
        assert await deaf.failure() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")
        generated = len(tokens_of(deaf.events))
        assert generated < 5000


# Stopping


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

    def noted(text: Text, content: str) -> tuple[int, ...]:
        threads.append(threading.get_ident())
        return user(text, content)

    monkeypatch.setattr(Text, "user", noted)
    await bench.resumed(stream.session)
    assert threads
    assert threading.get_ident() not in threads


async def test_a_turn_is_told_again_after_a_restart(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    events = await stream.until("finished")
    await bench.stop()
    await bench.start()
    back = await bench.resumed(stream.session)
    await back.turn("t", generation=TEN)
    retold = await back.until("finished")
    assert (tokens_of(retold), text_of(retold)) == (tokens_of(events), text_of(events))
    assert retold[-1] == events[-1]
    assert not bench.engines[-1].steps


async def test_a_turn_that_could_not_be_kept_is_not_told_to_have_finished(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await bench.said("hello")
    repository = bench.handle.shared.repository
    with monkeypatch.context() as patched:
        patched.setattr(repository, "finish_turn", _disk_full)
        stream = await bench.opened()
        await stream.turn("t", text="hello")
        assert await stream.failure() == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "finished" not in kinds(stream.events)
    back = await bench.resumed(stream.session)
    await back.turn("t", text="hello")
    events = await back.until("finished")
    assert events[0].started.attempt == 2
    assert tokens_of(events) == expected
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.turns == 1


async def test_a_turn_that_could_not_be_kept_before_it_runs_ends_the_stream_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await bench.opened()
    with monkeypatch.context() as patched:
        patched.setattr(bench.handle.shared.repository, "add_turn", _disk_full)
        await stream.turn("t")
        assert await stream.failure() == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert not bench.engines[0].steps
    back = await bench.resumed(stream.session)
    await back.turn("t")
    assert (await back.finished()).reason == pb.FINISH_REASON_LENGTH


def _disk_full(*_: object) -> None:
    raise OSError("disk full")
