"""Conversations that are opened and resumed: what is taken over, what is refused, what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from common import errors as server_errors
from common.errors import Reason
from sinkserve.client import Aborted, Client, NotFound, ResourceExhausted
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.scripted_runtime import ScriptedRuntime
from tests.fakes.scripted_session import Loss
from tests.service.clients.conversation.scripts import FAST, SENTENCE, cancel_all, only_session, read


async def eventually(true: Callable[[], bool]) -> None:
    """Return as soon as `true` is; a test that waits in vain runs into its timeout."""
    while not true():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
        await asyncio.sleep(0.001)


async def test_a_session_is_resumed_by_name(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        await (await conversation.say("first words")).wait()
        name = conversation.session.name
    async with client.conversation(session=name) as conversation:
        assert conversation.opened.resumed
        assert conversation.session.turns == 1
        assert await read(await conversation.say("more")) == "more "
    assert [turn.text async for turn in client.sessions.turns(name)] == ["first words", "more"]


async def test_a_resumed_session_gets_its_turn_even_when_no_event_was_seen(
    client: Client, runtime: ScriptedRuntime
) -> None:
    async with client.conversation("demo", session_id="s1"):
        pass
    runtime.losses = {1: Loss(1)}
    async with client.conversation(session="s1") as conversation:
        assert await read(await conversation.say(SENTENCE)) == "one two three four "


async def test_a_session_that_another_stream_takes_is_not_taken_back(client: Client, runtime: ScriptedRuntime) -> None:
    runtime.pace = asyncio.Event().wait
    async with client.conversation("demo", session_id="s1") as first:
        turn = await first.say(SENTENCE)
        async with client.conversation(session="sessions/s1"):
            with pytest.raises(Aborted) as caught:
                await turn.wait()
            assert caught.value.reason == "SESSION_TAKEN_OVER"
            assert first.error is caught.value
            with pytest.raises(Aborted):
                await first.say("again")
            await cancel_all(runtime)
            only_session(runtime).records[0].reason = pb.FINISH_REASON_CANCELLED
            await only_session(runtime).emit(heartbeat={})
    assert len(runtime.opens) == 2


async def test_an_idle_conversation_does_not_take_its_session_back(client: Client, runtime: ScriptedRuntime) -> None:
    runtime.losses = {0: Loss(1)}
    async with client.conversation("demo") as conversation:
        await asyncio.sleep(0.05)
        assert len(runtime.opens) == 1
        assert await read(await conversation.say("hello")) == "hello "
        assert len(runtime.opens) == 2


async def test_an_unknown_engine_and_an_unknown_session_are_not_found(client: Client) -> None:
    for conversation in (client.conversation("missing"), client.conversation(session="sessions/none")):
        with pytest.raises(NotFound):
            await conversation.open()


async def test_a_conversation_opens_once(client: Client, runtime: ScriptedRuntime) -> None:
    async with client.conversation("demo") as conversation:
        with pytest.raises(RuntimeError, match="opened already"):
            await conversation.open()
        assert await read(await conversation.say("hello")) == "hello "


async def test_giving_up_an_open_leaves_no_stream(client: Client, runtime: ScriptedRuntime) -> None:
    runtime.hold_open = asyncio.Event()
    opening = asyncio.create_task(client.conversation("demo").open())
    await eventually(lambda: bool(runtime.opens))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("conversation")]
    runtime.hold_open.set()


async def test_a_conversation_takes_an_engine_or_a_session(client: Client) -> None:
    for wrong in ({}, {"engine": "a", "session": "b"}, {"session": "b", "system_prompt": "c"}):
        with pytest.raises(TypeError, match="takes an engine"):
            client.conversation(**wrong)  # type: ignore[arg-type]


async def test_a_full_server_says_when_to_try(client: Client, runtime: ScriptedRuntime) -> None:
    full = server_errors.ResourceExhausted(Reason.CAPACITY_EXHAUSTED, "no slot is free", retry_after_s=0.015)
    runtime.refuse_open = [full] * 5
    with pytest.raises(ResourceExhausted) as caught:
        await client.conversation("demo").open()
    assert caught.value.retry_after_s == pytest.approx(0.015)
    assert len(runtime.refuse_open) == 5 - FAST.attempts_at_first


async def test_a_first_open_that_meets_a_stopping_server_tries_again(client: Client, runtime: ScriptedRuntime) -> None:
    runtime.refuse_open = [server_errors.Unavailable(Reason.DRAINING, "the server is stopping")]
    async with client.conversation("demo") as conversation:
        assert await read(await conversation.say("hello")) == "hello "
