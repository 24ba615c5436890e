"""What the scripted runtime is told to do, and what has come of it."""

from __future__ import annotations

import asyncio
import itertools

from sinkserve.client import Retry, Turn
from tests.fakes.scripted_runtime import ScriptedRuntime
from tests.fakes.scripted_session import ScriptedSession

NOBODY = "127.0.0.1:1"
SENTENCE = "one two three four"
FAST = Retry(first_s=0.001, longest_s=0.01, give_up_after_s=60)


def only_session(runtime: ScriptedRuntime) -> ScriptedSession:
    (session,) = runtime.sessions.values()
    return session


async def read(turn: Turn) -> str:
    return "".join([delta.text async for delta in turn])


async def until_started(runtime: ScriptedRuntime) -> ScriptedSession:
    session = only_session(runtime)
    async with session.changed:
        await session.changed.wait_for(lambda: bool(session.log))
    return session


async def cancel_all(runtime: ScriptedRuntime) -> None:
    for task in runtime.tasks:
        task.cancel()
    await asyncio.gather(*runtime.tasks, return_exceptions=True)


def say_one_word_until_cancelled(runtime: ScriptedRuntime) -> None:
    """Every word of a reply but the first comes only after somebody has cancelled."""
    words = itertools.count()

    async def pace() -> None:
        if next(words):
            await only_session(runtime).until_cancelled()

    runtime.pace = pace
