"""A TCP proxy that cuts its connections, as networks do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class FlakyProxy:
    """Listens on `address`, forwards to `target`, and cuts a connection after so many bytes of answers.

    `target` may be changed. `limits` are for the connections in order; None and those beyond the list are not cut.
    `of_requests`: they count bytes of requests.
    """

    def __init__(self, target: str, limits: list[int | None], *, of_requests: bool = False) -> None:
        self.target = target
        self._of_requests = of_requests
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection now."""
        for task in self._tasks:
            task.cancel()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._limits[self.connections] if self.connections < len(self._limits) else None
        self.connections += 1
        host, _, port = self.target.rpartition(":")
        try:
            answers, requests = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        tasks = [
            asyncio.create_task(self._forward(reader, requests, limit if self._of_requests else None)),
            asyncio.create_task(self._forward(answers, writer, None if self._of_requests else limit)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for side in (writer, requests):
            side.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 if limit is not None else 65536):
                if limit is not None:
                    limit -= len(data)
                    if limit < 0:
                        self.cuts += 1
                        return
                writer.write(data)
                await writer.drain()
