"""A database and a store of one's own that can fail, for those who need both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.own_postgres import OwnPostgres, find_tools
from tests.servers.s3 import Bucket, S3Server
from tests.service.replicas.chaos import Outage


@contextmanager
def database_of(folder: Path) -> Iterator[tuple[str, list[Outage]]]:
    """URL and outages of a PostgreSQL, or of an SQLite, which has none, where PostgreSQL is not installed."""
    if (tools := find_tools()) is None:
        yield f"sqlite:///{folder / 'chaos.db'}", []
        return
    server = OwnPostgres(tools)

    async def stop(seconds: float) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    try:
        yield server.url, [Outage("database stopped", stop, 3.0)]
    finally:
        server.remove()


@contextmanager
def store_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Outage]]]:
    """URL and outages of an S3 API: it hangs, or loses all that it has and its bucket with it for a while."""
    with S3Server() as server:
        bucket = server.use(monkeypatch)

        async def hang(seconds: float) -> None:
            server.freeze()
            await asyncio.sleep(seconds)
            server.thaw()

        async def refuse(seconds: float) -> None:
            await asyncio.to_thread(server.check_credentials)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.trust)

        async def forget(_: float) -> None:
            await asyncio.to_thread(_forget_snapshots, bucket)

        yield (
            bucket.url,
            [
                Outage("store hung", hang, 5.0),
                Outage("store refused", refuse, 5.0),
                Outage("store lost snapshots", forget, 1.0),
            ],
        )


def _forget_snapshots(bucket: Bucket) -> None:
    keys = bucket.keys()
    for key in keys:
        if key.startswith("sessions/"):
            bucket.delete(key)
