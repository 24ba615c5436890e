"""Options that several commands have, and how a command gets its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from builder_service.settings import BuilderSettings
from builder_service.sources.uri import HUB, Remote
from common.settings import SettingsError
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.client import Client

Json = Annotated[bool, typer.Option("--json", help="One JSON document, fields named as in the protos.")]
Builder = Annotated[
    str | None, typer.Option("--builder", metavar="HOST:PORT", help="The builder; else SINKSERVE_CLIENT_BUILDER.")
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="HOST:PORT", help="The runtime; else SINKSERVE_CLIENT_RUNTIME.")
]


def own_remote() -> Remote:
    """How this process reads checkpoints that lie elsewhere: as a builder here would, from wherever its user likes."""
    try:
        return BuilderSettings.load().remote.model_copy(update={"roots": (f"{HUB}://",)})
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


def make_client(builder: str | None = None, runtime: str | None = None) -> Client:
    """A client for the addresses given, else those of the environment. Needs a running event loop."""
    try:
        return Client(runtime, builder)
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


def ask(
    command: Callable[[Client], Awaitable[None]], *, builder: str | None = None, runtime: str | None = None
) -> None:
    """Run `command` with a client; failures end the process with words and an exit code."""

    async def run() -> None:
        async with make_client(builder, runtime) as client:
            await command(client)

    with explained():
        asyncio.run(run())
