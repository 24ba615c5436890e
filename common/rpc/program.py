"""A service as a program: settings from the environment, a start, and a stop at SIGTERM or SIGINT that always ends."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from common.errors import SinkServeError
from common.rpc.server import stop_requested
from common.settings import SettingsError, SharedSettings
from common.telemetry import configure_logging

LEFT_S = 10.0
"""How long what follows the grace may take: to write how turns ended, and to close what is open."""
HUNG = 70
"""Exit status of a process that had to be ended by force."""

log = structlog.get_logger()


class RunningService(Protocol):
    """A service that was started."""

    @property
    def grace_s(self) -> float:
        """How long what runs may go on once `stop` was called."""
        ...

    async def stop(self) -> None:
        """Stop in good order."""


def run_program(name: str, start: Callable[[SharedSettings], Awaitable[RunningService]]) -> None:
    """Start a service, and stop it at SIGTERM or SIGINT.

    Exits with a message if its settings are wrong, or an address, a folder or the database cannot be had.
    """
    try:
        shared = SharedSettings.load()
        configure_logging(json=shared.log_format == "json")
        asyncio.run(_serve(name, start(shared)))
    except (SettingsError, SinkServeError, OSError) as error:
        sys.exit(f"{name}: {error}")


async def _serve(name: str, start: Awaitable[RunningService]) -> None:
    service = await start
    await stop_requested()
    stopping = f"{name}.stopping"
    log.info(stopping, grace_s=service.grace_s)
    end_within(service.grace_s)
    await service.stop()


def end_within(grace_s: float) -> None:
    """End this process soon after its grace, whatever hangs in it: sessions and builds go on elsewhere."""
    timer = threading.Timer(grace_s + LEFT_S, _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    """Say what hangs, and leave without waiting for it."""
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.write(f"ended by force: {LEFT_S:g} s after its grace something above still hung\n")
    os._exit(HUNG)
