"""Conversations held through the services, one after the other: replies, how long they took, and how fluent they are.

Times are those that the runtime saw. A round is a turn's place in its conversation, from 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from sinkserve.client import Client, Conversation, Finished, FinishReason, GenerationOptions, SinkServeError
from sinkserve.evaluation.dialogues import Dialogue
from sinkserve.evaluation.progress import Advance, Track

LOOP = 4
"""Words in a row that a reply does not say twice by chance; words, so that other tokenizers can be compared."""
PAIR = 2
MOST_ROWS = 20
"""Of the table: more rounds than this share rows."""
_FORGOTTEN_S = 3600.0
"""A session is deleted at its end; after so many idle seconds if this process is killed."""


@dataclass(frozen=True)
class Exchange:
    """What was said and replied; no time to the first of no tokens, no speed of fewer than two."""

    said: str
    reply: str
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    position: int
    time_to_first_token_ms: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class Held:
    """One conversation."""

    question_id: int | str
    category: str
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Rounds:
    """Rounds `first` to `last`: `conversations` came so far, and replied so many times.

    Times are medians of the replies that have such a figure, `repeated` and `distinct` shares, as the functions of
    these names say; NaN of none. `ended` is the share of replies that the model ended by itself.
    """

    first: int
    last: int
    conversations: int
    replies: int
    time_to_first_token_ms: float
    tokens_per_second: float
    ended: float
    repeated: float
    distinct: float


@dataclass(frozen=True)
class Conversations:
    """The measurement; `skipped` says why, by question, and nothing of such a conversation counts."""

    engine: str
    held: tuple[Held, ...]
    skipped: dict[str, str]

    @property
    def rounds(self) -> tuple[Rounds, ...]:
        """Figures by round, or by equally many of them, as far as any conversation went."""
        longest = max((len(held.exchanges) for held in self.held), default=0)
        each = max(1, math.ceil(longest / MOST_ROWS))
        return tuple(self._rounds(start, min(start + each, longest)) for start in range(0, longest, each))

    def _rounds(self, start: int, end: int) -> Rounds:
        parts = [held.exchanges[start:end] for held in self.held if len(held.exchanges) > start]
        exchanges = [exchange for part in parts for exchange in part]
        replies = [exchange.reply for exchange in exchanges]
        return Rounds(
            first=start + 1,
            last=end,
            conversations=len(parts),
            replies=len(replies),
            time_to_first_token_ms=_median(exchange.time_to_first_token_ms for exchange in exchanges),
            tokens_per_second=_median(exchange.tokens_per_second for exchange in exchanges),
            ended=sum(exchange.finish_reason is FinishReason.STOP for exchange in exchanges) / len(exchanges),
            repeated=repeated(replies),
            distinct=distinct(replies),
        )


async def measure_conversations(
    client: Client,
    engine: str,
    dialogues: Iterable[Dialogue],
    generation: GenerationOptions,
    *,
    track: Track,
    tell: Callable[[Held], None],
) -> Conversations:
    """Hold every dialogue with `engine` in a session of its own, and `tell` each when it has ended.

    A conversation in which a turn fails is skipped with the reason. Raises what opening and deleting a session do.
    """
    name, all_held, skipped = engine, list[Held](), dict[str, str]()
    for dialogue in dialogues:
        async with client.conversation(engine, delete_after_idle_s=_FORGOTTEN_S) as conversation:
            name = conversation.session.engine
            try:
                with track(dialogue.name, len(dialogue.turns)) as advance:
                    held = await _hold(conversation, dialogue, generation, advance)
            except SinkServeError as error:
                skipped[dialogue.name] = error.message
            else:
                all_held.append(held)
                tell(held)
            await conversation.close(delete=True)
    return Conversations(name, tuple(all_held), skipped)


async def _hold(
    conversation: Conversation, dialogue: Dialogue, generation: GenerationOptions, advance: Advance
) -> Held:
    exchanges = []
    for said in dialogue.turns:
        turn = await conversation.say(said, **generation)
        finished = await turn.wait()
        exchanges.append(exchange(said, turn.text, finished))
        advance(1)
    return Held(dialogue.question_id, dialogue.category, tuple(exchanges))


def exchange(said: str, reply: str, finished: Finished) -> Exchange:
    """One turn that has ended."""
    usage = finished.usage
    return Exchange(
        said=said,
        reply=reply,
        finish_reason=finished.reason,
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        position=usage.position,
        time_to_first_token_ms=1e3 * finished.timing.time_to_first_token_s if usage.generated_tokens else None,
        tokens_per_second=finished.tokens_per_second or None,
    )


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else math.nan


def repeated(replies: Iterable[str]) -> float:
    """Share of four words in a row that stand earlier in the same reply already, over all replies; NaN of none."""
    rows = [_rows(reply, LOOP) for reply in replies]
    every = sum(map(len, rows))
    return (every - sum(len(set(found)) for found in rows)) / every if every else math.nan


def distinct(replies: Iterable[str]) -> float:
    """Share of different pairs of neighbouring words among all of the replies; NaN of none.

    Falls with the number of words: compare as many replies of the same questions.
    """
    counts = Counter(pair for reply in replies for pair in _rows(reply, PAIR))
    return len(counts) / counts.total() if counts else math.nan


def _rows(reply: str, length: int) -> Sequence[tuple[str, ...]]:
    words = reply.split()
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
