"""Options that several commands have, and how a command gets its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from builder_service.settings import BuilderSettings
from builder_service.sources.uri import HUB, Remote
from common.settings import SettingsError
from sinkserve.cli.connection import given
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.client import Client
from sinkserve.client.settings import ClientSettings

Json = Annotated[bool, typer.Option("--json", help="One JSON document, fields named as in the protos.")]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="FOLDER", help="A LoRA adapter that is merged into it: a folder, or hf://ORG/REPO."
    ),
]
Builder = Annotated[
    str | None, typer.Option("--builder", metavar="HOST:PORT", help="The builder; else SINKSERVE_CLIENT_BUILDER.")
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="HOST:PORT", help="The runtime; else SINKSERVE_CLIENT_RUNTIME.")
]
BuilderAdmin = Annotated[
    str | None,
    typer.Option("--admin", metavar="HOST:PORT", help="Its admin address; else SINKSERVE_CLIENT_BUILDER_ADMIN."),
]
RuntimeAdmin = Annotated[
    str | None,
    typer.Option("--admin", metavar="HOST:PORT", help="Its admin address; else SINKSERVE_CLIENT_RUNTIME_ADMIN."),
]


def own_remote() -> Remote:
    """How this process reads checkpoints that lie elsewhere: as a builder here would, from wherever its user likes."""
    try:
        return BuilderSettings.load().remote.model_copy(update={"roots": (f"{HUB}://",)})
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


def make_client(
    builder: str | None = None,
    runtime: str | None = None,
    *,
    builder_admin: str | None = None,
    runtime_admin: str | None = None,
) -> Client:
    """A client for the addresses given, and as the connection's options say; else those of the environment."""
    try:
        settings = ClientSettings.load().with_options(given.get())
        return Client(
            runtime,
            builder,
            runtime_admin=runtime_admin,
            builder_admin=builder_admin,
            credentials=settings.credentials(),
            token=settings.authorization(),
        )
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


def ask(
    command: Callable[[Client], Awaitable[None]],
    *,
    builder: str | None = None,
    runtime: str | None = None,
    builder_admin: str | None = None,
    runtime_admin: str | None = None,
) -> None:
    """Run `command` with a client; failures end the process with words and an exit code."""

    async def run() -> None:
        async with make_client(builder, runtime, builder_admin=builder_admin, runtime_admin=runtime_admin) as client:
            await command(client)

    with explained():
        asyncio.run(run())
