"""A replica, a process that kills itself in the middle of a turn: `python -m ... HOME DATABASE_URL WHEN`.

WHEN is "recall", between what it has found and what it would feed, or how many tokens of a reply it has fed by then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import grpc

from common.engine.engine import Feed
from runtime_service.recall.ranking import Candidate, by_words
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from tests.service.runtime.runtime import Bench

AT_RECALL = "recall"


@asynccontextmanager
async def dying(beside: Bench, when: str) -> AsyncIterator[tuple[Bench, str, asyncio.subprocess.Process]]:
    """A replica beside another, of the same home and database; its name, and the process."""
    command = (sys.executable, "-m", "tests.service.replicas.pair.dying")
    process = await asyncio.create_subprocess_exec(
        *command, str(beside.home), beside.database_url, when, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        while not (line := await process.stdout.readline()).startswith(b"serves "):
            assert line, "it ended before it served"
        _, address, replica = line.decode().split()
        async with grpc.aio.insecure_channel(address) as channel:
            yield replace(beside, runtime=None, channel=channel), replica, process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def dies(asked: str, candidates: Sequence[Candidate], said: Callable[[], Sequence[str]]) -> Sequence[Candidate]:
    """A ranker."""
    del asked, candidates, said
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies_after(tokens: int) -> Callable[[tuple[Feed, ...]], None]:
    """What is done before each step."""
    fed = count(1)

    def step(feeds: tuple[Feed, ...]) -> None:
        if all(len(feed.tokens) <= 1 for feed in feeds) and next(fed) == tokens:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


async def main(home: str, database_url: str, when: str) -> None:
    """Say where it serves and its name as a replica, and serve until it dies."""
    at_recall = when == AT_RECALL
    bench = Bench(Path(home), {}, database_url, before_step=None if at_recall else dies_after(int(when)))
    settings = RuntimeSettings.load({"listen": "127.0.0.1:0", "engines": ("demo",)})
    handle = await start_runtime(settings, bench.shared, bench._load, dies if at_recall else by_words)
    sys.stdout.write(f"serves {handle.address} {handle.shared.claims.replica}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
