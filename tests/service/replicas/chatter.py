"""One person who talks through the SDK, at whichever replica answers, and notes what was promised to be kept.

Turns keep their ids however often they are sent. A stream on which nothing comes for long is left, and the session
opened again elsewhere, as an application would do.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from sinkserve.client import (
    Client,
    Conversation,
    Finished,
    GenerationOptions,
    SessionOptions,
    SinkServeError,
    Turn,
)

NOBODY = "127.0.0.1:1"
LINES = (
    "hello.",
    "my cat is called Miso.",
    "what is my cat called?",
    "how are you?",
    "my favourite colour is green.",
    "what is my favourite colour?",
    "thank you.",
)
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED}
_SOON_S = 0.5
T = TypeVar("T")


@dataclass
class Asked:
    """A turn: those of one `batch` were sent at once, in this order. `finished` is what its client was told."""

    turn_id: str
    batch: int
    text: str
    generation: GenerationOptions
    refused: bool = False
    """It was refused once, and sent again behind the others."""
    finished: Finished | None = None
    reply: str = ""
    token_ids: tuple[int, ...] = ()
    attempt: int = 1


@dataclass
class Chatter:
    """Person `number`. `addresses` gives where to go at the `n`th try."""

    number: int
    addresses: Callable[[int], str]
    patience_s: float
    think_s: float
    seed: int
    asked: list[Asked] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.session_id = f"chatter-{self.number}"
        self._random = random.Random(f"{self.seed}/{self.number}")
        self._over = asyncio.Event()
        self._tries = self.number
        self._waiting: list[Asked] = []

    @property
    def options(self) -> SessionOptions:
        """Half have snapshots, half a small window, and some turns end with their stream."""
        return SessionOptions(
            durability="tokens_and_kv" if self.number % 2 else "tokens",
            window_tokens=48 if self.number % 4 < 2 else 252,
            on_disconnect="continue" if self.number % 3 else "cancel",
        )

    def stop(self) -> None:
        """Ask nothing more; `run` returns when everything that was asked has ended."""
        self._over.set()

    async def run(self) -> None:
        """Talk until `stop`; raises what should not have been said."""
        while self._waiting or not self._over.is_set():
            try:
                async with Client(self.addresses(self._tries), NOBODY) as client:
                    await self._converse(client)
            except TimeoutError:
                self.troubles["nothing was heard for long"] += 1
            except SinkServeError as error:
                self.troubles[error.reason or error.code.name] += 1
                await asyncio.sleep(_SOON_S)
            self._tries += 1

    async def _converse(self, client: Client) -> None:
        """Some batches over one stream, which is closed then, or lost."""
        async with AsyncExitStack() as stack:
            opening = stack.enter_async_context(client.conversation("demo", session_id=self.session_id, **self.options))
            conversation = await self._patiently(opening)
            for _ in range(self._random.randint(1, 8)):
                if not self._waiting:
                    self._ask()
                await self._say_all(client, conversation)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), self._random.uniform(0, 2 * self.think_s))
                if self._over.is_set():
                    break
            await self._patiently(conversation.close())

    async def _say_all(self, client: Client, conversation: Conversation) -> None:
        """What waits for an answer."""
        sent = [
            (asked, await conversation.say(asked.text, turn_id=asked.turn_id, **asked.generation))
            for asked in self._waiting
        ]
        await self._disturb(client, [turn for _, turn in sent])
        for asked, turn in sent:
            with suppress(SinkServeError):
                await self._patiently(turn.wait())
            self._hear(conversation, asked, turn)
        if self._waiting:
            await asyncio.sleep(_SOON_S)

    def _ask(self) -> None:
        batch = self.asked[-1].batch + 1 if self.asked else 0
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            turn_id = f"{self.session_id}-{len(self.asked)}"
            asked = Asked(turn_id, batch, self._random.choice(LINES), self._generation())
            self.asked.append(asked)
            self._waiting.append(asked)

    def _generation(self) -> GenerationOptions:
        """Greedy for the most part."""
        most, goes_on = self._random.randint(4, 40), self._random.random() < 0.5
        if self._random.random() < 0.2:
            return GenerationOptions(temperature=0.9, seed=self._random.randrange(1000), max_new_tokens=most)
        return GenerationOptions(temperature=0.0, max_new_tokens=most, ignore_eos=goes_on)

    async def _disturb(self, client: Client, turns: list[Turn]) -> None:
        """Now and then cancel a turn, or lose the connection."""
        dice = self._random.random()
        if dice < 0.2:
            await asyncio.sleep(self._random.uniform(0, 0.3))
        if dice < 0.1:
            await self._random.choice(turns).cancel(discard=dice < 0.05)
        elif dice < 0.15:
            await client.close()

    def _hear(self, conversation: Conversation, asked: Asked, turn: Turn) -> None:
        """Note how a turn ended; raises what ended the conversation, and what is no passing trouble."""
        try:
            asked.finished = turn.finished
        except SinkServeError as error:
            if conversation.error is not None:
                raise conversation.error from None
            self._note_refusal(asked, error)
            return
        asked.reply, asked.token_ids, asked.attempt = turn.text, turn.token_ids, turn.attempt
        self._waiting.remove(asked)

    def _note_refusal(self, asked: Asked, error: SinkServeError) -> None:
        assert error.code in _PASSING, f"{asked.turn_id} was refused: {error}"
        asked.refused = True
        self.troubles[f"refused: {error.reason}"] += 1

    async def _patiently(self, act: Awaitable[T]) -> T:
        return await asyncio.wait_for(act, self.patience_s)
