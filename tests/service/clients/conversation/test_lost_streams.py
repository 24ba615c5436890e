"""Streams of a conversation that are lost: what callers see, and when it is given up."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from common import errors as server_errors
from common.errors import Reason
from sinkserve.client import Client, Conversation, OutOfRange, Retry, Unreachable
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime
from tests.fakes.scripted_session import Loss, ScriptedSession
from tests.service.clients.conversation.scripts import (
    FAST,
    NOBODY,
    SENTENCE,
    cancel_all,
    only_session,
    read,
    until_started,
)

EVENTS = 1 + 1 + 4 + 1  # opened, started, a delta a word, finished


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED],
    ids=lambda code: code.name,
)
@pytest.mark.parametrize("after", range(EVENTS))
async def test_a_stream_lost_at_any_event_changes_nothing(
    client: Client, runtime: ScriptedRuntime, after: int, code: grpc.StatusCode
) -> None:
    runtime.losses = {0: Loss(after, code), 1: Loss(2, code)}
    async with client.conversation("demo") as conversation:
        turn = await conversation.say(SENTENCE)
        assert await read(turn) == "one two three four "
        assert turn.token_ids == (0, 1, 2, 3)
        following = await conversation.say("and on")
        assert await read(following) == "and on "
    assert only_session(runtime).runs == 2


@pytest.mark.parametrize("after", range(1, EVENTS))
async def test_events_that_are_no_longer_kept_come_again_without_doubling_text(
    client: Client, runtime: ScriptedRuntime, after: int
) -> None:
    runtime.losses = {0: Loss(after, effect=ScriptedSession.forget)}
    async with client.conversation("demo") as conversation:
        turn = await conversation.say(SENTENCE)
        if after > 1:
            assert await read(turn) == "one two three four "
        else:
            await turn.wait()
    assert only_session(runtime).runs <= 1


async def test_a_crash_voids_what_came_before(client: Client, runtime: ScriptedRuntime) -> None:
    async with client.conversation("demo") as conversation:
        runtime.pace = asyncio.Event().wait  # nothing comes by itself
        turn = await conversation.say(SENTENCE)
        session = await until_started(runtime)
        await session.emit(delta={"turn_id": turn.id, "text": "one too", "token_ids": [1]})
        assert (await anext(aiter(turn))).attempt == 1
        await session.emit(started={"turn_id": turn.id, "attempt": 2})
        await session.emit(delta={"turn_id": turn.id, "text": "one two", "token_ids": [2]})
        session.records[0].reason = pb.FINISH_REASON_STOP
        await session.emit(finished={"turn_id": turn.id, "reason": 1})
        await turn.wait()
        deltas = [delta async for delta in turn]
        assert [(delta.text, delta.attempt) for delta in deltas] == [("one two", 2)]
        assert (turn.text, turn.attempt, turn.token_ids) == ("one two", 2, (2,))
    await cancel_all(runtime)


async def test_nobody_there_is_unreachable_and_names_the_address() -> None:
    async with Client(NOBODY, NOBODY, retry=FAST) as client:
        with pytest.raises(Unreachable) as caught:
            await client.conversation("demo").open()
    assert caught.value.address == "127.0.0.1:1"


async def test_a_loss_is_logged_once(
    client: Client, runtime: ScriptedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sinkserve.client")
    runtime.losses = {0: Loss(3), 1: Loss(0), 2: Loss(0)}
    async with client.conversation("demo") as conversation:
        assert await read(await conversation.say(SENTENCE)) == "one two three four "
    assert [record.message for record in caplog.records if "was lost" in record.message] == [
        f"the stream to {client.runtime_address} was lost, coming back: UNAVAILABLE: lost"
    ]


async def test_a_server_that_never_has_the_events_ends_the_conversation(
    client: Client, runtime: ScriptedRuntime
) -> None:
    async with client.conversation("demo", session_id="s1"):
        pass
    expired = server_errors.OutOfRange(Reason.EVENTS_EXPIRED, "events are no longer kept")
    runtime.refuse_open = [expired] * 5
    with pytest.raises(OutOfRange):
        await client.conversation(session="s1").open()
    assert len(runtime.refuse_open) == 5 - FAST.attempts_at_first


async def test_a_server_that_stays_away_fails_the_turns_after_a_bounded_time() -> None:
    runtime = ScriptedRuntime()
    runtime.pace = asyncio.Event().wait
    server = await start_scripted_runtime(runtime)
    async with Client(
        server.address, NOBODY, retry=Retry(first_s=0.001, longest_s=0.01, give_up_after_s=0.1)
    ) as client:
        conversation = client.conversation("demo")
        await conversation.open()
        turn = await conversation.say(SENTENCE)
        await until_started(runtime)
        await server.stop(0)
        with pytest.raises(Unreachable):
            await turn.wait()
        await conversation.close()
    await cancel_all(runtime)


async def test_nothing_is_left_behind(client: Client, runtime: ScriptedRuntime) -> None:
    before = asyncio.all_tasks()
    for number in range(20):
        conversation: Conversation = client.conversation("demo")
        runtime.losses[len(runtime.opens)] = Loss(number % 5)
        async with conversation:
            await (await conversation.say(SENTENCE)).wait()
    left = [task for task in asyncio.all_tasks() - before if task.get_name().startswith("conversation")]
    assert not left
