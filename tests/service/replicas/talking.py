"""What tests do behind a balancer: conversations that are held, sessions that are opened, histories that are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sinkserve.client import Client, Conversation, FinishReason, GenerationOptions, Retry, Turn
from tests.service.replicas.behind_a_balancer import ENGINE, Replicas

NOBODY = "127.0.0.1:1"
SHORT = GenerationOptions(temperature=0, max_new_tokens=8, ignore_eos=True)


@asynccontextmanager
async def conversations(replicas: Replicas, count: int) -> AsyncIterator[list[Conversation]]:
    """New ones, each over a connection of its own, in which something was said."""
    clients = [Client(replicas.balancer.address, NOBODY) for _ in range(count)]
    held = [client.conversation(ENGINE) for client in clients]
    await asyncio.gather(*(conversation.open() for conversation in held))
    await all_say(held, "hello", SHORT)
    yield held
    for conversation, client in zip(held, clients, strict=True):
        await conversation.close()
        await client.close()


async def all_say(held: Sequence[Conversation], text: str, how: GenerationOptions) -> None:
    turns = [await conversation.say(text, **how) for conversation in held]
    await all_finish(turns, how)


async def all_finish(turns: Sequence[Turn], how: GenerationOptions) -> None:
    for turn in turns:
        finished = await turn.wait()
        assert (finished.reason, len(turn.token_ids)) == (FinishReason.LENGTH, how["max_new_tokens"])


def ids(held: Sequence[Conversation]) -> list[str]:
    return [conversation.session.name.removeprefix("sessions/") for conversation in held]


async def histories(replicas: Replicas, held: Sequence[Conversation]) -> list[list[tuple[str, str, int]]]:
    """Of each conversation: the id, the text and the length of every reply."""
    async with Client(replicas.balancer.address, NOBODY) as client:
        return [
            [(turn.turn_id, turn.reply, turn.usage.generated_tokens) async for turn in client.sessions.turns(name)]
            for name in (conversation.session.name for conversation in held)
        ]


async def opened(replicas: Replicas, count: int, tries: int = 1) -> list[str]:
    """Ids of new sessions, each opened at the first try, or one of a few."""
    async with Client(replicas.balancer.address, NOBODY, retry=Retry(attempts_at_first=tries)) as client:
        held = [client.conversation(ENGINE) for _ in range(count)]
        await asyncio.gather(*(conversation.open() for conversation in held))
        for conversation in held:
            await conversation.close()
        return ids(held)
