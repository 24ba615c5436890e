"""Replicas of the runtime, each a process at an address of its own that is started again whenever it ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_LOOK_S = 0.2
_RUNTIME = "runtime_service"


class Forked:
    """A runtime, forked from a process that has imported it: a second of a processor less for each.

    It is `Executed` in all but how it begins. `environment` is the whole of it; what it logs goes to the file `log`.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._process = _server().Process(target=_run, args=(dict(environment), log))
        self._process.start()
        self._reaped = threading.Lock()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        connection.wait([self._process.sentinel])
        with self._reaped:  # which one thread may do
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


class Executed(subprocess.Popen[bytes]):
    """`python -m runtime_service`, for who measures what that costs."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as opened:
            super().__init__((sys.executable, "-m", _RUNTIME), stderr=opened, env=environment)


class Replica:
    """A runtime, as a supervisor keeps it. `exits` counts its exit statuses."""

    def __init__(
        self,
        folder: Path,
        address: str,
        settings: Mapping[str, str],
        begin: Callable[[Mapping[str, str], Path], Forked | Executed] = Forked,
    ) -> None:
        folder.mkdir()
        self._begin = begin
        self.address = address
        self.log = folder / "log"
        self.exits: Counter[int] = Counter()
        self._environment = {
            **os.environ,
            "SINKSERVE_HOME": str(folder / "home"),
            "SINKSERVE_RUNTIME_LISTEN": self.address,
            "SINKSERVE_RUNTIME_ADMIN_LISTEN": "",  # as of several on one machine, whoever starts them
            "SINKSERVE_RUNTIME_METRICS_LISTEN": "",
            **settings,
        }
        self._process: Forked | Executed | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, and start again whatever ends."""
        self._keeper = asyncio.create_task(self._keep(), name=f"replica at {self.address}")

    async def ready(self) -> None:
        """Wait until it says that it is."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(channel)
            while True:
                with suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(_LOOK_S)

    @property
    def process_id(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        await self._end(signal.SIGKILL)

    async def drain(self) -> None:
        """SIGTERM; returns when it has ended."""
        await self._end(signal.SIGTERM)

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self._send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._send(signal.SIGCONT)

    async def stop(self) -> None:
        """End for good, whatever it does."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._send(signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def _keep(self) -> None:
        while True:
            self._process = self._begin(self._environment, self.log)
            self.exits[await asyncio.to_thread(self._process.wait)] += 1
            await asyncio.sleep(_LOOK_S)

    async def _end(self, number: signal.Signals) -> None:
        before = sum(self.exits.values())
        self._send(number)
        while sum(self.exits.values()) == before:  # noqa: ASYNC110 - it ends in another task
            await asyncio.sleep(_LOOK_S)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


def addresses(count: int) -> list[str]:
    """Free ones, which differ by address and not by port, as those of containers do."""
    with socket.create_server(("127.0.2.1", 0)) as free:
        port = free.getsockname()[1]
    return [f"127.0.2.{number}:{port}" for number in range(1, count + 1)]


@cache
def _server() -> ForkServerContext:
    """One for all tests of a process. It has no threads and has begun nothing of gRPC, which do not survive a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{_RUNTIME}.service"])
    return context


def _run(environment: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(opened, sys.__stderr__.fileno() if sys.__stderr__ else 2)
    os.close(opened)
    runpy.run_module(_RUNTIME, run_name="__main__", alter_sys=True)
