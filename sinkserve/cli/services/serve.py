"""`sinkserve serve`: both services in one process, or one of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.rpc.program import end_within
from common.rpc.server import stop_requested
from common.settings import SettingsError, SharedSettings, read_config
from common.telemetry import configure_logging
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import FAILED, WRONG, Failure, explained
from sinkserve.client.settings import ClientSettings


class Which(StrEnum):
    """What to serve."""

    BOTH = "both"
    BUILDER = "builder"
    RUNTIME = "runtime"


def serve(
    which: Annotated[Which, typer.Argument(help="One service alone, or both.")] = Which.BOTH,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML with sections `builder` and `runtime`; variables win.")
    ] = None,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Run the builder and the runtime in one process, or one of them.

    Engines, database and sessions live under SINKSERVE_HOME (default ~/.sinkserve).
    """
    with explained():
        asyncio.run(_serve(which, config, until_stdin_ends=until_stdin_ends))


async def _serve(which: Which, config: Path | None, *, until_stdin_ends: bool) -> None:
    async with contextlib.AsyncExitStack() as running:
        try:
            addresses, grace_s = await _start(running, which, config)
        except SettingsError as error:
            raise Failure(str(error), code=WRONG) from None
        except OSError as error:
            raise Failure(str(error), code=FAILED) from None
        stopped = asyncio.create_task(_stopped(until_stdin_ends=until_stdin_ends))
        for _ in range(2):
            await asyncio.sleep(0)  # its tasks run: from here on a signal stops in good order
        _announce(addresses, to_program=until_stdin_ends)
        await stopped
        what = "running builds get a moment" if which is Which.BUILDER else "running turns finish first"
        console.err.print(f"[dim]stopping: {what}; Ctrl-C again stops at once[/]")
        end_within(grace_s)
    gc.collect()  # what is left of gRPC's servers complains when it is collected after their event loop
    await asyncio.sleep(0)


async def _start(running: contextlib.AsyncExitStack, which: Which, config: Path | None) -> tuple[dict[str, str], float]:
    """Start what is asked for; returns addresses by service, and the grace of all. It stops with `running`."""
    sections = read_config(config)
    shared = SharedSettings.load(sections["shared"])
    configure_logging(json=shared.log_format == "json")
    on_demand = {"load_on_demand": True} if which is Which.BOTH else {}
    addresses: dict[str, str] = {}
    grace_s = 0.0
    if which is not Which.RUNTIME:
        builder = await start_builder(BuilderSettings.load(sections["builder"]), shared)
        running.push_async_callback(builder.stop)
        addresses |= {"builder": builder.address, "builder_admin": builder.admin_address}
        grace_s += builder.grace_s
    if which is not Which.BUILDER:
        runtime = await start_runtime(RuntimeSettings.load({**on_demand, **sections["runtime"]}), shared)
        running.push_async_callback(runtime.stop)
        addresses |= {"runtime": runtime.address, "runtime_admin": runtime.admin_address}
        grace_s += runtime.grace_s
    return addresses, grace_s


def _announce(addresses: dict[str, str], *, to_program: bool) -> None:
    """Say where the services listen: in JSON to the program that started them, or to a person, with what is next."""
    if to_program:
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        return
    for service, address in addresses.items():
        console.out.print(f"[bold]{service.replace('_', ' '):<15}[/]{address or 'none'}")
    exports = _exports(addresses)
    command = "sinkserve build SPEC.yaml" if "builder" in addresses else "sinkserve engines load ENGINE"
    console.out.print(f"[dim]next, elsewhere:[/] {' '.join([*exports, command])} [dim]· Ctrl-C stops[/]")


def _exports(addresses: dict[str, str]) -> list[str]:
    """What tells clients the addresses that they would not find by themselves."""
    defaults = ClientSettings.model_construct()
    known = {"builder": defaults.builder, "runtime": defaults.runtime}
    known |= {"builder_admin": defaults.admin_of("builder"), "runtime_admin": defaults.admin_of("runtime")}
    return [
        f"SINKSERVE_CLIENT_{name.upper()}={address}"
        for name, address in addresses.items()
        if address and address != known[name]
    ]


async def _stopped(*, until_stdin_ends: bool) -> None:
    """Return at SIGINT or SIGTERM, or when stdin ends because the parent process has closed it or has ended."""
    ways = [asyncio.create_task(stop_requested())]
    if until_stdin_ends:
        ways.append(asyncio.create_task(_stdin_ends()))
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.wait(ways)


async def _stdin_ends() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
