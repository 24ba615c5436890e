"""Conversations that end, and servers that leave: what finishes, and what is cancelled."""

from __future__ import annotations

import pytest

from sinkserve.client import Client
from tests.fakes.scripted_runtime import ScriptedRuntime
from tests.service.clients.conversation.scripts import only_session, read, say_one_word_until_cancelled


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
