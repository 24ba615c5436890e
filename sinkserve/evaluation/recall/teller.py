"""Tells a session what was written, fills in chat, and asks."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sinkserve.client import Conversation, Message, Turn
from sinkserve.evaluation.progress import Advance
from sinkserve.evaluation.recall.material import Exchange, chat
from sinkserve.evaluation.recall.plan import Asked, Step, Told
from sinkserve.evaluation.recall.scores import Answer

_IN_FLIGHT = 6
_LONGEST_REPLY = 40


class Teller:
    """Speaks in one session that is open, which nobody else speaks in."""

    def __init__(self, held: Conversation, seed: str, advance: Advance = lambda _: None) -> None:
        """`advance` is called with every window that the session has grown by."""
        self.position = 0
        self._held = held
        self._advance = advance
        self._reported = 0
        self._draw = random.Random(seed)  # noqa: S311 - a test's chat, the same every time
        self._pending: list[Turn] = []
        self._read_again: dict[str, int] = {}  # the last time, by turn: where the session was

    @property
    def window(self) -> int:
        """Tokens of the session's window."""
        return self._held.session.options.window_tokens

    async def hold(self, plan: Sequence[Step]) -> list[Answer]:
        """Go through a plan."""
        answers = list[Answer]()
        for step in plan:
            await self.fill(round(step.time * self.window))
            if isinstance(step, Told):
                await self.tell(step.said, step.name)
            else:
                answers.append(await self._answer(step))
        return answers

    async def fill(self, position: int) -> None:
        """Chat until the session is so long."""
        while self.position < position:
            await self.tell(chat(self._draw))

    async def tell(self, said: Exchange, turn_id: str = "") -> None:
        """Put an exchange into the history."""
        messages: list[Message] = [
            {"role": "user", "content": said.user},
            {"role": "assistant", "content": said.assistant},
        ]
        self._pending.append(await self._held.send(messages=messages, turn_id=turn_id, no_reply=True))
        if len(self._pending) >= _IN_FLIGHT:
            await self.settle()

    async def settle(self) -> None:
        """Wait for what was sent."""
        for turn in self._pending:
            self.position = (await turn.wait()).usage.position
        self._pending.clear()
        grown = self.position // self.window
        self._advance(grown - self._reported)
        self._reported = grown

    async def ask(self, question: str, *, recalls: bool) -> Turn:
        """Ask, and wait for the reply."""
        await self.settle()
        budget = None if recalls else 0
        turn = await self._held.say(question, temperature=0.0, max_new_tokens=_LONGEST_REPLY, recall_tokens=budget)
        self.position = (await turn.wait()).usage.position
        return turn

    async def _answer(self, step: Asked) -> Answer:
        turn = await self.ask(step.question, recalls=step.recalls)
        window_start = turn.finished.usage.window_start_position
        assert window_start is not None
        in_view_before = self._read_again.get(step.name, -1) >= window_start
        names = recalled(turn)
        self._read_again.update(dict.fromkeys(names, self.position))
        return Answer(step, step.name in names or in_view_before, says(turn.text, step.value), in_view_before)


def recalled(turn: Turn) -> set[str]:
    """Turns that were read again before it."""
    return set() if turn.started is None else {each.turn_id for each in turn.started.recalled}


def says(reply: str, value: str) -> bool:
    """Whether a reply has a value in it, as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", reply, re.IGNORECASE) is not None
