"""`sinkserve engines`: published engines, and what the runtime has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sinkserve.cli.build.builds import precision
from sinkserve.cli.engine_card import facts
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.cli.terminal.options import Builder, BuilderAdmin, Json, Runtime, RuntimeAdmin, ask
from sinkserve.client import Client
from sinkserve.engine.v1.engine_pb2 import Engine
from sinkserve.runtime.v1.engine_service_pb2 import LoadedEngine

app = typer.Typer(help="Published engines, and what the runtime has loaded.")

Reference = Annotated[str, typer.Argument(metavar="ENGINE", help="NAME, NAME:ALIAS, NAME@VERSION or NAME@sha256:HEX.")]


@app.command("list")
def list_engines(
    name: Annotated[str, typer.Argument(help="Only versions of this name.")] = "",
    json: Json = False,
    builder: Builder = None,
) -> None:
    """List engines, by name and then the newest version first."""

    async def command(client: Client) -> None:
        engines = [engine async for engine in client.engines.list(name)]
        if json:
            console.print_json(engines=engines)
            return
        heads = ("ENGINE", "ALIASES", "MODEL", "PRECISION", "SINKS + WINDOW", "SIZE#", "PUBLISHED")
        console.print_table(heads, [_row(engine) for engine in engines], "no engines yet")

    ask(command, builder=builder)


def _row(engine: Engine) -> tuple[str, ...]:
    cache = engine.spec.cache
    return (
        f"[bold]{escape(engine.reference)}[/]",
        escape(" ".join(engine.aliases)),
        f"{engine.manifest.family} {console.parameters(engine.manifest.parameters)}",
        precision(engine.spec),
        f"{cache.sink_tokens} + {cache.window_tokens}",
        console.size(engine.size_bytes),
        console.ago(engine.create_time),
    )


Config = Annotated[Path | None, typer.Option("--config", help="YAML with `database_url`, `store_url`; variables win.")]


Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="PEM: authorities of the registry's certificate. Else SINKSERVE_REGISTRY_CA."
    ),
]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Speak to the registry without TLS. Else SINKSERVE_REGISTRY_PLAIN_HTTP.")
]


@app.command("export")
def export_engine(
    reference: Reference,
    to: Annotated[str, typer.Argument(help="An empty or new folder, or oci://HOST[:PORT]/REPOSITORY[:TAG].")],
    ca: Ca = None,
    plain_http: PlainHttp = False,
    config: Config = None,
) -> None:
    """Write an engine to a folder in the layout of OCI images, or to a registry, straight out of the store."""
    from sinkserve.cli.services.artifacts import export_to  # noqa: PLC0415 - needs what services need

    export_to(reference, to, config, {"ca": ca, "plain_http": plain_http})


@app.command("import")
def import_engine(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="A folder that `engines export` wrote, or oci://HOST/REPOSITORY:TAG.")
    ],
    owner: Annotated[str, typer.Option("--owner", help="Principal whose engine it is to be.")] = "",
    ca: Ca = None,
    plain_http: PlainHttp = False,
    config: Config = None,
) -> None:
    """Publish the engine in a folder or a registry, straight into the store, under the next version of its name."""
    from sinkserve.cli.services.artifacts import import_from  # noqa: PLC0415 - needs what services need

    import_from(source, owner, config, {"ca": ca, "plain_http": plain_http})


@app.command()
def show(reference: Reference, json: Json = False, builder: Builder = None) -> None:
    """Show one engine."""

    async def command(client: Client) -> None:
        engine = await client.engines.get(reference)
        if json:
            console.print_json(engine=engine)
            return
        console.print_facts(facts(engine))

    ask(command, builder=builder)


@app.command()
def alias(  # noqa: PLR0917 - typer reads a command's options from its parameters
    reference: Reference,
    alias: Annotated[str | None, typer.Argument(help="The alias to set; left out: list the aliases.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias instead.")] = False,
    json: Json = False,
    builder: Builder = None,
    admin: BuilderAdmin = None,
) -> None:
    """Set, move, delete or list aliases."""
    with explained():
        if delete and alias is None:
            raise Failure("--delete takes the alias to delete", code=WRONG)

    async def command(client: Client) -> None:
        if alias is None:
            aliases = await client.engines.aliases(reference)
        elif delete:
            await client.engines.delete_alias(reference, alias)
            return
        else:
            aliases = (await client.engines.set_alias(reference, alias),)
        if json:
            console.print_json(aliases=aliases)
            return
        rows = [(f"{escape(item.name)}:{escape(item.alias)}", f"{item.name}@{item.version}") for item in aliases]
        console.print_table(("ALIAS", "ENGINE"), rows, "no aliases")

    ask(command, builder=builder, builder_admin=admin)


@app.command()
def verify(reference: Reference, builder: Builder = None) -> None:
    """Read every file of an engine again and compare digests."""

    async def command(client: Client) -> None:
        checked = await client.engines.verify(reference)
        console.out.print(f"{checked.files} files, {console.size(checked.size_bytes)}: all as they were")

    ask(command, builder=builder)


@app.command()
def delete(
    reference: Annotated[str, typer.Argument(metavar="ENGINE", help="NAME@VERSION or NAME@sha256:HEX.")],
    force: Annotated[bool, typer.Option("--force", help="Delete it although it is in use.")] = False,
    admin: BuilderAdmin = None,
) -> None:
    """Delete one version; its number is never used again."""

    async def command(client: Client) -> None:
        await client.engines.delete(reference, force=force)
        console.out.print(f"{escape(reference)} is deleted")

    ask(command, builder_admin=admin)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; only count.")] = False,
    json: Json = False,
    admin: BuilderAdmin = None,
) -> None:
    """Delete what no engine has and no build claims: what killed builds have left in the store."""

    async def command(client: Client) -> None:
        collected = await client.engines.collect_garbage(dry_run=dry_run)
        if json:
            console.print_json(collected=collected)
            return
        said = "would be deleted" if dry_run else "deleted"
        console.out.print(
            f"{collected.deleted_blobs} blobs {said}, {console.size(collected.deleted_bytes)}; "
            f"engines have {collected.published_blobs}, builds claim {collected.claimed_blobs}"
        )

    ask(command, builder_admin=admin)


@app.command()
def load(reference: Reference, json: Json = False, admin: RuntimeAdmin = None) -> None:
    """Have the runtime load an engine."""

    async def command(client: Client) -> None:
        engine = await client.engines.load(reference)
        if json:
            console.print_json(engine=engine)
        else:
            console.out.print(f"{engine.reference} is loaded")

    ask(command, runtime_admin=admin)


@app.command()
def unload(
    reference: Reference,
    wait: Annotated[bool, typer.Option("--wait", help="Let running turns finish first.")] = False,
    evict: Annotated[bool, typer.Option("--evict", help="Stop running turns; they start again elsewhere.")] = False,
    admin: RuntimeAdmin = None,
) -> None:
    """Have the runtime unload an engine; its sessions live on in storage."""
    if wait and evict:
        raise typer.BadParameter("--wait and --evict exclude each other")

    async def command(client: Client) -> None:
        await client.engines.unload(reference, "wait" if wait else "evict" if evict else "refuse")
        console.out.print(f"{escape(reference)} is unloaded")

    ask(command, runtime_admin=admin)


@app.command()
def loaded(json: Json = False, runtime: Runtime = None) -> None:
    """List what the runtime has loaded, and what it could not load."""

    async def command(client: Client) -> None:
        engines, refused = await client.engines.loaded(), await client.engines.refused()
        if json:
            console.print_json(engines=engines, refused=refused)
            return
        heads = ("ENGINE", "SLOTS IN USE#", "TURNS#", "SINKS + WINDOW", "LOADED", "MARGIN#")
        console.print_table(heads, [_loaded_row(engine) for engine in engines], "nothing is loaded")
        for engine in refused:
            console.out.print(f"[bold]{escape(engine.reference)}[/] was refused: {escape(engine.error.message)}")

    ask(command, runtime=runtime)


def _loaded_row(engine: LoadedEngine) -> tuple[str, ...]:
    cache = engine.cache
    return (
        f"[bold]{escape(engine.reference)}[/]",
        f"{engine.slots_in_use} of {engine.slots}",
        str(engine.turns),
        f"{cache.sink_tokens} + {cache.window_tokens}",
        console.ago(engine.load_time),
        f"{engine.golden_margin:.3g}" if engine.HasField("golden_margin") else "",
    )
