"""`sinkserve build`: submit a spec and watch the build."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from builder_service.checkpoint.gguf.names import is_gguf
from builder_service.sources.uri import HUB, Folder, Place, Repository, pinned, read_adapter_place, read_place
from common.rpc.wire import spec_to_wire
from common.spec.model_spec import ModelSpec, Source
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.view import check_outcome, print_outcome, print_ready, watch
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.cli.terminal.options import Builder, Json, ask, make_client
from sinkserve.client import Client


def build(  # noqa: PLR0917 - typer reads a command's options from its parameters
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The spec; `sinkserve spec init` writes one.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a field, such as cache.window_tokens=508."),
    ] = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="Publish another version where the same engine exists.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait; print the build's name.")] = False,
    json: Json = False,
    builder: Builder = None,
) -> None:
    """Build an engine from a spec."""
    with explained():
        model = read_spec_file(spec, read_changes(changes or ()))

    async def command(client: Client) -> None:
        check_reachable(model.source, client.builder_address)
        submitted = await client.builds.submit(spec_to_wire(model), new_version=new_version)
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


def check_reachable(source: Source, builder: str) -> None:
    """Raise Failure for a path of this machine where the builder is on another, which could not read it."""
    here = {field: uri for field, uri in (("uri", source.uri), ("adapter", source.adapter)) if uri and "://" not in uri}
    if not here or is_local(builder):
        return
    field, uri = next(iter(here.items()))
    raise Failure(
        f"{uri} is a folder on this machine, and the builder at {builder} is on another",
        hint="name a source that it can fetch, hf://ORG/REPO or s3://BUCKET/PREFIX; or, if the folder is on its own "
        f"machine, as file:///PATH; --set source.{field}=... does it for once",
        code=WRONG,
    )


def is_local(address: str) -> bool:
    """Whether a client's address, HOST:PORT or gRPC's unix:PATH, leads to this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    target = address.rpartition("/")[2]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        target = target.removeprefix(scheme)
    host = target.rpartition(":")[0].strip("[]").lower()
    try:
        known = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return known.is_loopback or known.is_unspecified


def shown_source(source: Source) -> str:
    """A source in one piece."""
    return pinned(source) + (f" + adapter {source.adapter}" if source.adapter else "")


def announce(spec: ModelSpec, reasons: Sequence[str] = ()) -> None:
    """Say what is being built, and why it is as it is."""
    cache = spec.cache
    precision = f"{spec.precision} · " if spec.says_precision else ""
    console.err.print(
        f"building [bold]{escape(spec.name)}[/] from {escape(shown_source(spec.source))}\n"
        f"[dim]{precision}{cache.sink_tokens} sinks + {cache.window_tokens} tokens · {cache.max_slots} slots[/]"
    )
    for reason in reasons:
        console.err.print(f"[dim]{escape(reason)}[/]")


async def build_here(address: str, spec: ModelSpec, reasons: Sequence[str] = ()) -> str:
    """Build with the builder at `address`, and wait; a checkpoint that was built like this before is there at once.

    Returns NAME@VERSION; raises typer.Exit, having said why, where there is no engine.
    """
    async with make_client(builder=address) as client:
        announce(spec, reasons)
        submitted = await client.builds.submit(spec_to_wire(spec))
        build = await watch(client, submitted.name, goes_on=False)
        check_outcome(build)
        print_ready(build)
        return build.engine


def readable_roots(source: Source) -> tuple[Path | str, ...]:
    """The folders or URLs that an embedded builder needs as source roots for this source."""
    return tuple(_root(place) for place in (read_place(source), read_adapter_place(source)) if place)


def _root(place: Place) -> Path | str:
    if isinstance(place, Folder):
        return place.path.resolve().parent if is_gguf(place.path.name) else place.path
    return f"{HUB}://{place.name}" if isinstance(place, Repository) else place.url
