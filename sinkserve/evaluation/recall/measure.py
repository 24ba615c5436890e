"""Holds the sessions that measure recall: one long one, and one of many conversations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sinkserve.client import Client, Conversation
from sinkserve.evaluation.forms import FORMS, FormName
from sinkserve.evaluation.progress import Track
from sinkserve.evaluation.recall.conversations import Ability, Past, Question, write_past
from sinkserve.evaluation.recall.plan import distances_up_to, write_plan
from sinkserve.evaluation.recall.scores import Recall, Row, Size, beyond, by_distance, by_kind, inside, row, score
from sinkserve.evaluation.recall.teller import Teller, recalled, says

SHARE = 8
"""Of the window one part in so many is read again, unless said otherwise."""
_FORGOTTEN_S = 3600.0
Outcome = tuple[Question, bool, bool]
"""A question, whether the conversation that answers it was read again, and whether the reply was right."""


async def measure_recall(client: Client, engine: str, form: FormName, size: Size, track: Track) -> Recall:
    """Ask in a long session, and over many conversations. Raises what its calls do."""
    plan = write_plan(FORMS[form], distances_up_to(size.windows), size.questions, 0)
    async with _opened(client, engine, size.recall_tokens) as held:
        with track("one long session, windows", round(plan[-1].time)) as advance:
            teller = Teller(held, "chat", advance)
            answers = await teller.hold(plan)
    rows, length = await _over_conversations(client, engine, size, track)
    return Recall(
        engine=held.session.engine,
        form=form,
        window_tokens=held.session.options.window_tokens,
        recall_tokens=held.session.options.recall_tokens,
        position=teller.position,
        left_out=sum(not answer.counts for answer in answers),
        distances=by_distance(answers),
        kinds=by_kind(answers),
        inside=row("inside", inside(answers)),
        beyond=row("beyond", beyond(answers)),
        conversations=rows,
        conversation_tokens=length,
    )


@asynccontextmanager
async def _opened(client: Client, engine: str, recall_tokens: int | None) -> AsyncIterator[Conversation]:
    """A session that recalls so many tokens or its share, deleted at the end."""
    if recall_tokens is None:
        async with client.conversation(engine, delete_after_idle_s=_FORGOTTEN_S) as probe:
            recall_tokens = probe.session.options.window_tokens // SHARE
            await probe.close(delete=True)
    session = client.conversation(engine, recall_tokens=recall_tokens, delete_after_idle_s=_FORGOTTEN_S)
    async with session as held:
        yield held
        await held.close(delete=True)


async def _over_conversations(client: Client, engine: str, size: Size, track: Track) -> tuple[tuple[Row, ...], int]:
    """Scores by ability, and how long the session is before the questions; a fork is asked without recall."""
    past = write_past(size.conversations, 0)
    async with _opened(client, engine, size.recall_tokens) as held:
        with track("many conversations", size.conversations) as advance:
            teller = Teller(held, "conversations", advance)
            for number, said in enumerate(past.conversations):
                for part, exchange in enumerate(said):
                    await teller.tell(exchange, f"{number}-{part}")
                await teller.fill((number + 1) * teller.window)
        await teller.settle()
        length = teller.position
        fork = await client.sessions.fork(held.session.name)
        answers = await _ask_all(teller, past, recalls=True)
    async with client.conversation(session=fork.name) as forked:
        others = await _ask_all(Teller(forked, "fork"), past, recalls=False)
        await forked.close(delete=True)
    return tuple(_ability_row(ability, answers, others) for ability in Ability), length


async def _ask_all(teller: Teller, past: Past, *, recalls: bool) -> list[Outcome]:
    answers = []
    for question in past.questions:
        turn = await teller.ask(question.asked, recalls=recalls)
        found = any(name.startswith(f"{question.told_in}-") for name in recalled(turn))
        if question.ability is Ability.ABSTENTION:
            right = not any(says(turn.text, value) for value in past.values)
        else:
            right = says(turn.text, question.value)
        answers.append((question, found, right))
    return answers


def _ability_row(ability: Ability, with_recall: list[Outcome], without: list[Outcome]) -> Row:
    scores = (
        score((found, right) for question, found, right in answers if question.ability is ability)
        for answers in (with_recall, without)
    )
    return Row(ability.value, None, *scores)
