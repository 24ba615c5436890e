"""What grpc.aio does behind a handler's back, one test for each trap; decision 15 has the list."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from common.errors import Aborted, Reason
from common.rpc.server import Registration, start_server
from runtime_service.api.outbox import Outbox
from runtime_service.api.stream import ConversationStream
from runtime_service.sessions.registry import SessionRegistry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.nightly import examples
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, kinds, reason_of, tokens_of

CANCELS = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
LARGE = {"logprobs": 20, "ignore_eos": True}


async def quiet(bench: Bench) -> None:
    """Wait until no stream is open and no turn runs."""

    async def nothing_left() -> bool:
        return not bench.handle.conversations.streams and not bench.handle.engines.loaded[0].turns

    await eventually(nothing_left)
    await bench.handle.shared.background.wait()


async def last_turn(bench: Bench, session: str) -> pb.TurnRecord:
    return (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns[-1]


# The end of the requests is a half-close or a loss


async def test_a_client_that_half_closed_and_then_left_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    half_closed, no_more = asyncio.Event(), ConversationStream.no_more

    def noted(conversation: ConversationStream) -> None:
        no_more(conversation)
        half_closed.set()

    monkeypatch.setattr(ConversationStream, "no_more", noted)
    stream = await bench.opened(options=CANCELS)
    await stream.turn("t", generation=ENDLESS)
    await stream.first_delta()
    await stream.half_close()
    await half_closed.wait()
    stream.call.cancel()
    await quiet(bench)
    assert (await last_turn(bench, stream.session)).reason == pb.FINISH_REASON_CANCELLED


async def test_a_server_that_stops_without_grace_loses_its_streams(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation={"max_new_tokens": 300, "ignore_eos": True})
    await stream.first_delta()
    await bench.handle.server.grpc_servers[0].stop(0)
    assert (await stream.failure())[0] is grpc.StatusCode.UNAVAILABLE
    await quiet(bench)


async def test_a_client_that_leaves_while_its_session_is_being_opened_does_not_follow_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bench.opened()
    await first.half_close()
    await first.rest()
    key = ("local", first.session.removeprefix("sessions/"))
    asked, open_session = asyncio.Event(), SessionRegistry.open

    async def noted(sessions: SessionRegistry, *who: Any) -> Any:
        asked.set()
        return await open_session(sessions, *who)

    monkeypatch.setattr(SessionRegistry, "open", noted)
    async with bench.handle.sessions.held(key, Aborted(Reason.SESSION_TAKEN_OVER, "held")):
        late = bench.stream()
        await late.send(open=pb.Open(session=first.session))
        await asked.wait()
        late.call.cancel()

        async def gone() -> bool:
            return not bench.handle.conversations.streams

        await eventually(gone)
    await quiet(bench)
    assert not any(live.busy for live in bench.handle.sessions.live)


@pytest.mark.parametrize("moments", range(4))
async def test_a_cancel_is_not_swallowed_by_an_event_that_comes_with_it(moments: int) -> None:
    outbox = Outbox(10, lambda _: None)
    taking = asyncio.create_task(outbox.take(60.0))
    await asyncio.sleep(0.01)
    outbox.close()
    for _ in range(moments):
        await asyncio.sleep(0)
    asked = taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled() == asked


# Writes


async def deaf(bench: Bench, channel: grpc.aio.Channel) -> Stream:
    """A client with a small window, which reads no more once it has opened its session."""
    stream = Stream(pb_grpc.ConversationServiceStub(channel).Converse())
    await stream.open(options=CANCELS)
    return stream


async def unread(bench: Bench, stream: Stream) -> None:
    """Wait until the session of `stream` is paused, because a write waits for its client."""
    live = next(live for live in bench.handle.sessions.live if live.session.name == stream.session)

    async def is_paused() -> bool:
        return live.state.tenant.paused

    await eventually(is_paused)


async def test_a_client_that_leaves_while_a_write_waits_for_it_is_lost(bench: Bench) -> None:
    await bench.stop()
    bench.settings["unread_events"] = 4
    await bench.start()
    with capture_logs() as logs:
        async with grpc.aio.insecure_channel(bench.handle.address, options=NARROW) as channel:
            stream = await deaf(bench, channel)
            await stream.turn("t", generation={**ENDLESS, **LARGE})
            await unread(bench, stream)
            stream.call.cancel()
            await quiet(bench)
    assert (await last_turn(bench, stream.session)).reason == pb.FINISH_REASON_CANCELLED
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.long
async def test_a_client_that_asks_and_does_not_read_is_not_listened_to(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.stop()
    bench.settings["unread_events"] = 4
    await bench.start()
    received: Counter[ConversationStream] = Counter()
    receive = ConversationStream.receive

    async def counted(conversation: ConversationStream, request: Any) -> None:
        received[conversation] += 1
        await receive(conversation, request)

    monkeypatch.setattr(ConversationStream, "receive", counted)
    async with grpc.aio.insecure_channel(bench.handle.address, options=NARROW) as channel:
        stream = await deaf(bench, channel)
        options: dict[str, Any] = {"max_new_tokens": 40, **LARGE}
        await stream.turn("t", generation=options)
        first = tokens_of(await stream.until("finished"))
        (conversation,) = received
        for _ in range(300):
            await stream.turn("t", generation=options)

        async def is_full() -> bool:
            return conversation.outbox.waiting >= 4

        await eventually(is_full)
        other = await bench.opened()
        for _ in range(10):
            await other.turn()
            await other.finished()
        assert conversation.outbox.waiting >= 4
        assert received[conversation] < 100
        assert conversation.outbox.waiting < 100
        for _ in range(300):
            assert tokens_of(await stream.until("finished")) == first


async def test_what_readers_and_engines_say_is_written_one_by_one(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("long", generation=ENDLESS)
    for number in range(100):
        await stream.turn(f"bad {number}", generation={"temperature": -1.0})
    await stream.send(cancel=pb.CancelTurn(turn_id="long"))
    await stream.half_close()
    events = await stream.rest()
    assert Counter(kinds(events))["rejected"] == 100
    assert Counter(kinds(events))["finished"] == 1


# Handlers


async def _waits_for_what_is_cancelled(_requests: AsyncIterator[bytes], _context: object) -> None:
    waiting = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(waiting.cancel)
    await waiting


async def _tells_a_secret(_requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    yield b"one"
    raise ValueError("the secret")


@pytest.mark.parametrize("handler", [_waits_for_what_is_cancelled, _tells_a_secret])
async def test_whatever_a_handler_raises_its_client_gets_a_clean_status(handler: Any) -> None:
    def add(server: grpc.aio.Server) -> None:
        method = grpc.stream_stream_rpc_method_handler(handler, _same, _same)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": method}),))

    server = await start_server("127.0.0.1:0", [Registration("a.B", add)])
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: Any = channel.stream_stream("/a.B/C")()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await call.read() is not grpc.aio.EOF:
                    pass
    finally:
        await server.stop(0)
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(caught.value.details())


def _same(data: bytes) -> bytes:
    return data


# Streams that come and go


@pytest.mark.long
async def test_streams_that_come_and_go_leave_no_object_behind(bench: Bench) -> None:
    dice = random.Random(3)
    tasks = len(asyncio.all_tasks())

    async def visit(stream: Stream, number: int) -> None:
        try:
            await stream.open(session_id=f"visitor-{number % 8}")
            await stream.turn(generation={"max_new_tokens": 5 if number % 3 else 40, "ignore_eos": True})
            for _ in range(dice.randrange(3)):
                await stream.next()
            if number % 5 == 0:
                await stream.half_close()
                await stream.rest()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # taken over, or cut
        finally:
            stream.call.cancel()

    for turn in range(examples(6)):
        await asyncio.gather(*(visit(bench.stream(), number) for number in range(16)))
        limits: list[int | None] = [dice.randrange(200, 1500) for _ in range(50)]
        async with (
            FlakyProxy(bench.handle.address, limits) as proxy,
            grpc.aio.insecure_channel(proxy.address) as channel,
        ):
            stub = pb_grpc.ConversationServiceStub(channel)
            await asyncio.gather(*(visit(Stream(stub.Converse()), turn + number) for number in range(4)))
    await quiet(bench)

    async def nothing_is_kept() -> bool:
        gc.collect()
        kept = Counter(
            type(each).__name__ for each in gc.get_objects() if isinstance(each, (ConversationStream, Outbox))
        )
        return not kept and len(asyncio.all_tasks()) <= tasks

    await eventually(nothing_is_kept)
    assert len(bench.handle.sessions.live) == 8
