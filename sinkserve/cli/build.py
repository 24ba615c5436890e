"""`sinkserve build`: submit a spec and watch what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from common.spec import ModelSpec
from common.spec_file import read_spec_file
from common.wire import spec_to_wire
from sinkserve.cli import console
from sinkserve.cli.build_view import print_outcome, watch
from sinkserve.cli.failures import WRONG, Failure, explained
from sinkserve.cli.options import Builder, Json, ask
from sinkserve.client import Client


def build(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The spec; `sinkserve spec init` writes one.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a field, such as cache.window_tokens=508."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait; print the build's name.")] = False,
    json: Json = False,
    builder: Builder = None,
) -> None:
    """Build an engine from a spec."""
    with explained():
        model = read_spec_file(spec, read_changes(changes or ()))

    async def command(client: Client) -> None:
        submitted = await client.builds.submit(spec_to_wire(model))
        if detach:
            console.print_json(build=submitted) if json else console.out.print(submitted.name)
            return
        announce(model)
        ended = await watch(client, submitted.name)
        if json:
            console.print_json(build=ended)
        if not (json and ended.engine):
            print_outcome(ended)

    ask(command, builder=builder)


def read_changes(changes: list[str] | tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE to a mapping; raises Failure for what is not."""
    pairs = [change.partition("=") for change in changes]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise Failure(f"--set takes KEY=VALUE, such as cache.window_tokens=508, not {key!r}", code=WRONG)
    return {key.strip(): value for key, _, value in pairs}


def announce(spec: ModelSpec) -> None:
    """Say what is being built."""
    cache = spec.cache
    console.err.print(
        f"building [bold]{escape(spec.name)}[/] from {escape(spec.source.uri)}\n"
        f"[dim]{spec.precision} · {cache.sink_tokens} sinks + {cache.window_tokens} tokens · {cache.max_slots} slots[/]"
    )
