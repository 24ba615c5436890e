"""Turns of a conversation over the wire with a scripted runtime: what goes in, what comes out, what is refused."""

from __future__ import annotations

import asyncio

import pytest

from sinkserve.client import AlreadyExists, Client, FinishReason, Internal, InvalidArgument
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.scripted_runtime import ScriptedRuntime
from tests.fakes.scripted_session import Loss, ScriptedSession
from tests.service.clients.conversation.scripts import (
    SENTENCE,
    only_session,
    read,
    say_one_word_until_cancelled,
    until_started,
)


async def test_a_turn_streams_its_deltas_and_says_how_it_ended(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        turn = await conversation.say(SENTENCE, max_new_tokens=50)
        assert await read(turn) == turn.text == "one two three four "
    assert turn.token_ids == (0, 1, 2, 3)
    assert turn.started is not None
    assert turn.started.generation.max_new_tokens == 50
    assert turn.finished.reason is FinishReason.STOP
    assert turn.finished.usage.position == 8
    assert turn.finished.tokens_per_second == pytest.approx(30)


async def test_deltas_can_be_read_again_after_the_end(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        turn = await conversation.say(SENTENCE)
        await turn.wait()
        assert await read(turn) == await read(turn) == turn.text


async def test_turns_run_in_order_and_more_may_wait_than_a_server_lets(
    client: Client, runtime: ScriptedRuntime
) -> None:
    async with client.conversation("demo") as conversation:
        turns = [await conversation.say(f"turn {number}") for number in range(30)]
        for number, turn in enumerate(turns):
            await turn.wait()
            assert turn.text == f"turn {number} "
    assert only_session(runtime).runs == 30


async def test_messages_and_token_ids_go_as_they_are(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        spoken = await conversation.send(messages=[{"role": "user", "content": "a b"}])
        bare = await conversation.send(token_ids=[5, 7])
        fed = await conversation.send(text="only fed", no_reply=True)
    assert (spoken.text, bare.text, fed.text) == ("a b ", "5 7 ", "")
    assert fed.finished.reason is FinishReason.INPUT_ONLY


async def test_a_turn_takes_exactly_one_kind_of_input(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        with pytest.raises(TypeError, match="exactly one"):
            await conversation.send(text="a", token_ids=[1])
        with pytest.raises(TypeError, match="exactly one"):
            await conversation.send()


async def test_options_of_a_session_reach_the_server(client: Client, runtime: ScriptedRuntime) -> None:
    async with client.conversation(
        "demo",
        system_prompt="Be brief.",
        pin_system_prompt=False,
        window_tokens=64,
        labels={"a": "b"},
        on_full="error",
        template_variables={"enable_thinking": False},
    ) as conversation:
        assert conversation.session.engine == "demo@1"
    new = runtime.opens[0].new_session
    assert (new.system_prompt, new.options.window_tokens, dict(new.labels)) == ("Be brief.", 64, {"a": "b"})
    assert new.options.HasField("pin_system_prompt")
    assert dict(new.options.template_variables) == {"enable_thinking": False}
    assert not new.options.HasField("sink_tokens")
    assert new.options.on_disconnect == pb.SessionOptions.ON_DISCONNECT_UNSPECIFIED
    assert runtime.metadata[0]["sinkserve-session-id"] == new.session_id


async def test_a_cancelled_turn_ends_and_says_so(client: Client, runtime: ScriptedRuntime) -> None:
    say_one_word_until_cancelled(runtime)
    async with client.conversation("demo") as conversation:
        turn = await conversation.say("word word word")
        async for _ in turn:
            await turn.cancel()
        assert (await turn.wait()).reason is FinishReason.CANCELLED
        assert turn.text == "word "


async def test_a_cancel_outlives_a_lost_stream(client: Client, runtime: ScriptedRuntime) -> None:
    asked = asyncio.Event()

    async def until_asked(_: ScriptedSession) -> None:
        await asked.wait()

    runtime.deaf = {0}
    runtime.losses = {0: Loss(2, effect=until_asked)}
    async with client.conversation("demo") as conversation:
        runtime.pace = only_session(runtime).until_cancelled
        turn = await conversation.say(SENTENCE)
        await until_started(runtime)
        await turn.cancel()
        asked.set()
        assert (await turn.wait()).reason is FinishReason.CANCELLED
        assert only_session(runtime).cancelled == {turn.id}
    assert len(runtime.opens) == 2


async def test_a_rejected_turn_raises_with_its_fields_and_the_conversation_goes_on(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        with pytest.raises(InvalidArgument) as caught:
            await (await conversation.say("a", temperature=11)).wait()
        assert caught.value.reason == "INVALID_FIELD"
        assert caught.value.violations[0].field == "turn.generation.temperature"
        assert await read(await conversation.say("b")) == "b "


async def test_a_turn_id_for_another_turn_is_refused(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        await (await conversation.say("a", turn_id="mine")).wait()
        with pytest.raises(AlreadyExists):
            await (await conversation.say("b", turn_id="mine")).wait()


async def test_a_turn_that_failed_raises_after_what_it_said(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        turn = await conversation.say("explode now")
        said = []
        with pytest.raises(Internal) as caught:
            said += [delta.text async for delta in turn]
        assert caught.value.reason == "NON_FINITE_LOGITS"
        assert turn.text == "explode now "
        assert await read(await conversation.say("go on")) == "go on "
