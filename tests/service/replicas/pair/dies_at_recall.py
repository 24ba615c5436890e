"""A replica that is killed between what it has found and what it would feed: `python -m ... HOME DATABASE_URL`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime_service.recall.ranking import Candidate
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from tests.service.runtime.runtime import Bench


def dies(asked: str, candidates: Sequence[Candidate], said: Callable[[], Sequence[str]]) -> Sequence[Candidate]:
    """A ranker."""
    del asked, candidates, said
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def main(home: str, database_url: str) -> None:
    """Say where it serves and its name as a replica, and serve until it dies."""
    bench = Bench(Path(home), {}, database_url)
    settings = RuntimeSettings.load({"listen": "127.0.0.1:0", "engines": ("demo",)})
    handle = await start_runtime(settings, bench.shared, bench._load, dies)
    sys.stdout.write(f"serves {handle.address} {handle.shared.claims.replica}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
