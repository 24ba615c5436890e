"""A conversation over the wire with a scripted runtime: what callers see, and what happens when streams are lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from common import errors as server_errors
from common.errors import Reason
from sinkserve.client import (
    Aborted,
    AlreadyExists,
    Client,
    Conversation,
    FinishReason,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Retry,
    Turn,
    Unreachable,
)
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes.scripted_runtime import Loss, ScriptedRuntime, ScriptedSession, start_scripted_runtime

NOBODY = "127.0.0.1:1"
SENTENCE = "one two three four"
EVENTS = 1 + 1 + 4 + 1  # opened, started, a delta a word, finished
FAST = Retry(first_s=0.001, longest_s=0.01, give_up_after_s=60)


@pytest.fixture
async def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
async def client(runtime: ScriptedRuntime) -> AsyncIterator[Client]:
    server = await start_scripted_runtime(runtime)
    async with Client(server.address, NOBODY, retry=FAST) as client:
        yield client
    await server.stop(0)


def only_session(runtime: ScriptedRuntime) -> ScriptedSession:
    (session,) = runtime.sessions.values()
    return session


async def read(turn: Turn) -> str:
    return "".join([delta.text async for delta in turn])


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
        "demo", system_prompt="Be brief.", pin_system_prompt=False, window_tokens=64, labels={"a": "b"}, on_full="error"
    ) as conversation:
        assert conversation.session.engine == "demo@1"
    new = runtime.opens[0].new_session
    assert (new.system_prompt, new.options.window_tokens, dict(new.labels)) == ("Be brief.", 64, {"a": "b"})
    assert new.options.HasField("pin_system_prompt")
    assert not new.options.HasField("sink_tokens")
    assert new.options.on_disconnect == pb.SessionOptions.ON_DISCONNECT_UNSPECIFIED
    assert runtime.metadata[0]["sinkserve-session-id"] == new.session_id


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


async def until_started(runtime: ScriptedRuntime) -> ScriptedSession:
    session = only_session(runtime)
    async with session.changed:
        await session.changed.wait_for(lambda: bool(session.log))
    return session


async def eventually(true: Callable[[], bool]) -> None:
    """Return as soon as `true` is; a test that waits in vain runs into its timeout."""
    while not true():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
        await asyncio.sleep(0.001)


async def cancel_all(runtime: ScriptedRuntime) -> None:
    for task in runtime.tasks:
        task.cancel()
    await asyncio.gather(*runtime.tasks, return_exceptions=True)


def say_one_word_until_cancelled(runtime: ScriptedRuntime) -> None:
    """Every word of a reply but the first comes only after somebody has cancelled."""
    words = itertools.count()

    async def pace() -> None:
        if next(words):
            await only_session(runtime).until_cancelled()

    runtime.pace = pace


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


async def test_a_leaving_server_finishes_the_turn_and_the_next_goes_elsewhere(
    client: Client, runtime: ScriptedRuntime
) -> None:
    runtime.go_away_on = {0}
    async with client.conversation("demo") as conversation:
        turns = [await conversation.say(f"turn {number}") for number in range(3)]
        assert [await read(turn) for turn in turns] == ["turn 0 ", "turn 1 ", "turn 2 "]
    assert len(runtime.opens) == 2
    assert only_session(runtime).runs == 3


async def test_closing_with_delete_deletes_the_session(client: Client, runtime: ScriptedRuntime) -> None:
    async with client.conversation("demo") as conversation:
        await conversation.say("bye")
        await conversation.close(delete=True)
    assert not runtime.sessions


async def test_closing_waits_for_the_turns_so_far(client: Client) -> None:
    async with client.conversation("demo") as conversation:
        turns = [await conversation.say("a b c") for _ in range(12)]
    assert all(turn.done for turn in turns)
    with pytest.raises(RuntimeError, match="not open"):
        await conversation.say("late")


async def test_leaving_by_an_exception_cancels_what_runs(client: Client, runtime: ScriptedRuntime) -> None:
    say_one_word_until_cancelled(runtime)
    with pytest.raises(KeyError):
        async with client.conversation("demo") as conversation:
            turn = await conversation.say("word word word")
            await anext(aiter(turn))
            raise KeyError
    assert only_session(runtime).cancelled == {turn.id}


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
