"""Tenants who talk behind a balancer: one with measure, one without; and what each is told, sees and uses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sinkserve.client import Client, Conversation, NotFound, ResourceExhausted
from tests.samples.identity.certificates import Pair
from tests.service.identity.estate import Estate

AGAIN_S = 0.2


@dataclass
class Tenant:
    """`turns`, `prompt_tokens` and `generated_tokens` are what its client was told: what it may be billed for."""

    estate: Estate
    principal: str
    token: Callable[[], str]
    certificate: Pair
    turns: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By quota."""

    @property
    def used(self) -> list[tuple[str, str, int, int, int]]:
        """As usage is listed."""
        return [(self.principal, "demo@1", self.turns, self.prompt_tokens, self.generated_tokens)]

    @asynccontextmanager
    async def conversation(self, session_id: str) -> AsyncIterator[Conversation]:
        """One that is new, or goes on, over a connection of its own."""
        async with self.client() as client, client.conversation("demo", session_id=session_id) as conversation:
            yield conversation

    def client(self) -> Client:
        return self.estate.client(self.token, self.certificate)

    async def say(self, conversation: Conversation, tokens: int) -> None:
        """A turn to its end; refused is refused."""
        turn = await conversation.say("hello", max_new_tokens=tokens, ignore_eos=True)
        try:
            finished = await turn.wait()
        except ResourceExhausted as error:
            await self._note(error)
            return
        assert finished.usage.generated_tokens == tokens, finished
        self.turns += 1
        self.prompt_tokens += finished.usage.prompt_tokens
        self.generated_tokens += tokens

    async def talk(self, session_id: str, rounds: int, tokens: int) -> None:
        """Turns, each over a new connection."""
        for _ in range(rounds):
            async with self.conversation(session_id) as conversation:
                await self.say(conversation, tokens)

    async def talk_until(self, over: asyncio.Event, session_id: str, tokens: int) -> None:
        """One turn after another, over one connection."""
        async with self.conversation(session_id) as conversation:
            while not over.is_set():
                await self.say(conversation, tokens)

    async def pry_until(self, over: asyncio.Event, others: list[str]) -> None:
        """Ask for sessions beyond a quota, and for those of others."""
        async with self.client() as client:
            while not over.is_set():
                await self._pry(client, others)

    async def _pry(self, client: Client, others: list[str]) -> None:
        for name in others:
            await _absent(client, name)
        assert {session.owner async for session in client.sessions.list()} <= {self.principal}
        try:
            await client.sessions.create("demo")
        except ResourceExhausted as error:
            await self._note(error)

    async def _note(self, error: ResourceExhausted) -> None:
        self.refused[error.metadata["quota"]] += 1
        await asyncio.sleep(AGAIN_S)


async def _absent(client: Client, name: str) -> None:
    for act in (client.sessions.get(name), client.sessions.cancel_turn(name, "1"), client.sessions.delete(name)):
        try:
            await act
        except NotFound:
            continue
        raise AssertionError(f"{name} was found")
