"""A TCP proxy before a dependency, which can fail in every way that a network and a broken peer do."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Self

_STEP_S = 0.02


class Fault(StrEnum):
    """How the dependency behaves."""

    NONE = "none"
    REFUSE = "refuse"
    """Nobody listens."""
    RESET = "reset"
    """Every connection is reset."""
    SILENCE = "silence"
    """Connections are taken, and what is sent too; nothing ever comes back."""
    SLOW = "slow"
    """Everything arrives, each piece late."""
    NONSENSE = "nonsense"
    """Answers are no answers."""


class FaultyProxy:
    """Listens on `address` and forwards to HOST:PORT `target`, as `become` says; connections that are open too."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._fault = Fault.NONE
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def become(self, fault: Fault) -> None:
        """Behave so from now on."""
        before, self._fault = self._fault, fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault in {Fault.REFUSE, Fault.RESET}:
            self._close(listening=fault is Fault.RESET)
        elif before is Fault.REFUSE:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def _close(self, *, listening: bool = False) -> None:
        if self._server is not None and not listening:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.create_task(self._accept(reader, writer)))
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        if self._fault is Fault.RESET:
            writer.transport.abort()
            return
        answers, requests = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, requests}
        await asyncio.gather(self._forward(reader, requests), self._forward(answers, writer, answers=True))
        self._writers -= {writer, requests}

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                while self._fault is Fault.SILENCE:
                    await self._changed.wait()
                if self._fault is Fault.SLOW:
                    await asyncio.sleep(_STEP_S)
                writer.write(b"nonsense" * 8 if answers and self._fault is Fault.NONSENSE else data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
