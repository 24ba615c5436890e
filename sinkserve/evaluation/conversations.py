"""Conversations held through the services, one after the other: replies, and how long they took by round.

Times are those that the runtime saw. A round is a turn's place in its conversation, from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from statistics import median

from sinkserve.client import Client, Conversation, Finished, FinishReason, GenerationOptions, SinkServeError
from sinkserve.evaluation.dialogues import Dialogue
from sinkserve.evaluation.progress import Advance, Track

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
class Round:
    """Medians over the conversations that have such a figure; NaN of none. `conversations` went on for so long."""

    number: int
    conversations: int
    time_to_first_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Conversations:
    """The measurement; `skipped` says why, by question, and nothing of such a conversation counts."""

    engine: str
    held: tuple[Held, ...]
    skipped: dict[str, str]

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Figures by round, as far as any conversation went."""
        by_round = ([held.exchanges[i] for held in self.held if len(held.exchanges) > i] for i in count())
        return tuple(_round(number, group) for number, group in enumerate(takewhile(bool, by_round), 1))


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


def _round(number: int, exchanges: Sequence[Exchange]) -> Round:
    return Round(
        number=number,
        conversations=len(exchanges),
        time_to_first_token_ms=_median(exchange.time_to_first_token_ms for exchange in exchanges),
        tokens_per_second=_median(exchange.tokens_per_second for exchange in exchanges),
    )


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else math.nan
