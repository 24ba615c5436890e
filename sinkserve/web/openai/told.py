"""A conversation that the client tells whole each time: it goes on where the longest known beginning of it ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sinkserve.client import Client
from sinkserve.web.openai.follow import Ended, Event, Started, follow
from sinkserve.web.openai.history import beginnings, labels_behind, title_label
from sinkserve.web.openai.place import heard_place, new_place
from sinkserve.web.openai.prompt import Attempt, Message, Prompt
from sinkserve.web.settings import WebSettings


async def told(client: Client, prompt: Prompt, attempt: Attempt, settings: WebSettings) -> AsyncGenerator[Event, None]:
    """As `follow`; before the end is told, the session has the label by which the next request finds it."""
    place = await heard_place(client, prompt, attempt)
    place = place or new_place(prompt, attempt.name, settings.engine, settings.keep_days)
    async with aclosing(follow(client, place, prompt, attempt)) as events:
        async for event in events:
            if isinstance(event, Started):
                place = event.place
            elif isinstance(event, Ended):
                said = (*prompt.messages, Message("assistant", event.text, event.finished.tool_calls))
                known = beginnings(prompt, said)[0]
                labels = labels_behind(known, place.turn.session, place.turn.number, place.labels)
                if place.turn.number == 1:
                    labels |= title_label(prompt.messages)
                await client.sessions.update(place.session, labels=labels)
            yield event
