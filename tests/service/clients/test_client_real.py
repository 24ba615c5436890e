"""The client and the real runtime, over a network that fails and a runtime that stops and starts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TypedDict

import pytest

from common.engine.engine import Feed
from sinkserve.client import Client, Conversation, FinishReason, GenerationOptions, InvalidArgument, Retry
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import Bench

NOBODY = "127.0.0.1:1"
FAST = Retry(first_s=0.01, longest_s=0.05, give_up_after_s=20, attempts_at_first=100)
GREEDY = GenerationOptions(temperature=0, max_new_tokens=40, ignore_eos=True)
LINES = ("my cat is called Miso", "what is my cat called?", "and on it goes")


class Said(TypedDict):
    texts: list[str]
    tokens: list[tuple[int, ...]]
    position: int


async def talk(conversation: Conversation) -> Said:
    """Say all lines, the last two queued at once; what was replied, as heard delta by delta."""
    texts, tokens = [], []
    turns = [await conversation.say(LINES[0], **GREEDY)]
    await turns[0].wait()
    turns += [await conversation.say(line, **GREEDY) for line in LINES[1:]]
    for turn in turns:
        deltas = [delta async for delta in turn]
        assert turn.text == "".join(delta.text for delta in deltas)
        texts.append(turn.text)
        tokens.append(tuple(token for delta in deltas for token in delta.token_ids))
    return Said(texts=texts, tokens=tokens, position=turns[-1].finished.usage.position)


async def undisturbed(address: str) -> Said:
    async with Client(address, NOBODY, retry=FAST) as client, client.conversation("demo") as conversation:
        return await talk(conversation)


async def test_a_conversation_over_a_failing_network_is_the_same_conversation(bench: Bench) -> None:
    bench.before_step = lambda _: time.sleep(0.002)
    expected = await undisturbed(bench.handle.address)
    limits: list[int | None] = [40, 600, 300, 900, 350, 700, 1200, 500, 650, 400]
    async with FlakyProxy(bench.handle.address, limits) as proxy, Client(proxy.address, NOBODY, retry=FAST) as client:
        async with client.conversation("demo") as conversation:
            assert await talk(conversation) == expected
        assert [turn.text async for turn in client.sessions.turns(conversation.session.name)] == list(LINES)
        assert proxy.cuts >= 5


async def test_turns_survive_a_runtime_that_stops_in_the_middle_and_starts_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"drain_grace_s": 0.0})
    bench.publish()
    await bench.start()
    expected = await undisturbed(bench.handle.address)
    async with FlakyProxy(bench.handle.address, []) as proxy, Client(proxy.address, NOBODY, retry=FAST) as client:
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(feeds: tuple[Feed, ...]) -> None:
            time.sleep(0.005)
            if max(feed.position for feed in feeds) > expected["position"] // 2:
                loop.call_soon_threadsafe(reached.set)

        bench.before_step = slow
        async with client.conversation("demo") as conversation:
            talking = asyncio.create_task(talk(conversation))
            await reached.wait()
            await bench.stop()
            await bench.start()
            proxy.target = bench.handle.address
            assert await talking == expected
    await bench.stop()


async def test_a_cancel_takes_effect_and_discard_takes_the_turn_back(bench: Bench) -> None:
    bench.before_step = lambda _: time.sleep(0.002)
    async with Client(bench.handle.address, NOBODY) as client, client.conversation("demo") as conversation:
        for discard in (False, True):
            before = (await client.sessions.get(conversation.session.name)).position
            turn = await conversation.say("hello", max_new_tokens=5000, ignore_eos=True)
            async for _ in turn:
                await turn.cancel(discard=discard)
            assert turn.finished.reason is FinishReason.CANCELLED
            after = (await client.sessions.get(conversation.session.name)).position
            assert (after == before) is discard


async def test_text_that_is_no_text_is_refused_here(bench: Bench) -> None:
    async with Client(bench.handle.address, NOBODY) as client, client.conversation("demo") as conversation:
        with pytest.raises(UnicodeEncodeError):
            await conversation.say("\ud800")
        assert (await (await conversation.say("hello", **GREEDY)).wait()).usage.generated_tokens == 40


async def test_what_the_server_refuses_names_its_field(bench: Bench) -> None:
    async with Client(bench.handle.address, NOBODY) as client, client.conversation("demo") as conversation:
        for wrong, field in (
            (GenerationOptions(temperature=-1), "turn.generation.temperature"),
            (GenerationOptions(stop=[""]), "turn.generation.stop"),
        ):
            with pytest.raises(InvalidArgument) as caught:
                await (await conversation.say("hello", **wrong)).wait()
            assert caught.value.violations[0].field.startswith(field)


async def test_log_probabilities_come_one_a_token(bench: Bench) -> None:
    async with Client(bench.handle.address, NOBODY) as client, client.conversation("demo") as conversation:
        turn = await conversation.say("hello", logprobs=2, max_new_tokens=9, ignore_eos=True)
        entries = [entry async for delta in turn for entry in delta.logprobs]
    assert tuple(entry.token_id for entry in entries) == turn.token_ids
    assert all(len(entry.top) == 2 and entry.logprob <= 0 for entry in entries)
