"""A service in a process of its own, forked from one that has imported it: a second of a processor less for each.

It is `python -m runtime_service` in all but how it begins. How that begins is tested where the command line is.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

_RUNTIME = "runtime_service"


class Forked:
    """As subprocess.Popen. `environment` is the whole of it; what the service logs is added to the file `log`."""

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
