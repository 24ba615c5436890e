"""A build's process, for its worker: started in its own process group, which is killed as a whole."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import BaseModel

from builder_service.machine.memory import peak_memory_bytes
from builder_service.pipeline.messages import LONGEST_LINE, FromChild, Log, Planned, Progress, read_message
from builder_service.queue.build import Stage

# -P: what lies in the working directory is no module of ours
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "builder_service.pipeline.child")
_LONGEST_LOG_LINE = 2000
_LAST_WORDS = 20
_LOOK_S = 0.1


@dataclass
class ChildProcess:
    """A running `builder_service.pipeline.child`. Always call `kill` at the end."""

    process: asyncio.subprocess.Process
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_WORDS))
    """The last lines that it printed."""
    stage: Stage | None = None
    """Its last stage."""
    estimate_bytes: int = 0
    limit_bytes: int = 0
    """Its estimate of memory, and its limit; 0 before PLAN."""
    peak_bytes: int = 0
    """Its peak of memory, sampled."""

    async def send(self, message: BaseModel) -> None:
        """Send one message; nothing happens if the child has ended."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(message.model_dump_json().encode() + b"\n")
            await self.process.stdin.drain()

    async def messages(self) -> AsyncGenerator[FromChild]:
        """Its messages and its printed lines, until it closes both pipes."""
        inbox: asyncio.Queue[FromChild | None] = asyncio.Queue(maxsize=64)
        pumps = [asyncio.create_task(self._pump(lines, inbox)) for lines in (self._said(), self._printed())]
        open_pipes = len(pumps)
        pumps.append(asyncio.create_task(self._watch_memory()))
        try:
            while open_pipes:
                if (message := await inbox.get()) is None:
                    open_pipes -= 1
                else:
                    yield message
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for its end: its own exit status says more than that of a kill."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), seconds)

    async def kill(self) -> int:
        """Kill it and all it started, and wait for its end; returns its exit status, negative for a signal."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return await self.process.wait()

    async def _pump(self, lines: AsyncIterator[FromChild], inbox: asyncio.Queue[FromChild | None]) -> None:
        try:
            async for message in lines:
                await inbox.put(message)
        except ValueError as error:  # not a message: nothing it says after this can be trusted
            self.last_words.append(f"not a message: {error}")
            await self.kill()
        await inbox.put(None)

    async def _watch_memory(self) -> None:
        """Sample the peak: the kernel forgets it when the process ends."""
        while True:
            self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(self.process.pid))
            await asyncio.sleep(_LOOK_S)

    async def _said(self) -> AsyncIterator[FromChild]:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message = read_message(line)
            if isinstance(message, Planned):
                self.estimate_bytes, self.limit_bytes = message.estimate_bytes, message.limit_bytes
                continue
            self.stage = message.stage if isinstance(message, Progress) else self.stage
            yield message

    async def _printed(self) -> AsyncIterator[FromChild]:
        assert self.process.stderr is not None
        while line := await _line(self.process.stderr):
            text = line.decode(errors="replace").rstrip()[:_LONGEST_LOG_LINE]
            if text:
                self.last_words.append(text)
                yield Log(text=text)


async def start_child() -> ChildProcess:
    """Start a child; it then waits for its order."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    return ChildProcess(process)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or the part of a longer one that fits; empty at the end."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(error.consumed)
