"""`sinkserve builds`: list, show, watch and cancel builds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from sinkserve.builder.v1.builder_service_pb2 import Build, WatchBuildResponse
from sinkserve.cli.build.view import print_outcome, watch
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import hint
from sinkserve.cli.terminal.options import Builder, BuilderAdmin, Json, ask
from sinkserve.client import Client
from sinkserve.client.builds import State as StateWord
from sinkserve.client.errors import from_status
from sinkserve.engine.v1.engine_pb2 import ModelSpec, Precision, Target

app = typer.Typer(help="What the builder does and did.")

Name = Annotated[str, typer.Argument(metavar="BUILD", help="builds/ID, or the ID alone.")]

_COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}


@app.command("list")
def list_builds(
    state_: Annotated[StateWord | None, typer.Option("--state", help="Only builds in this state.")] = None,
    name: Annotated[str, typer.Option("--name", help="Only builds of engines of this name.")] = "",
    json: Json = False,
    builder: Builder = None,
) -> None:
    """List builds, the newest first."""

    async def command(client: Client) -> None:
        builds = [build async for build in client.builds.list(state=state_, name=name)]
        if json:
            console.print_json(builds=builds)
            return
        rows = [
            (
                build.name,
                escape(build.engine or build.spec.name),
                state(build),
                f"{build.progress:.0%}",
                console.ago(build.create_time),
            )
            for build in builds
        ]
        console.print_table(("BUILD", "ENGINE", "STATE", "DONE#", "SUBMITTED"), rows, "no builds yet")

    ask(command, builder=builder)


@app.command()
def show(name: Name, json: Json = False, builder: Builder = None) -> None:
    """Show one build."""

    async def command(client: Client) -> None:
        build = await client.builds.get(build_name(name))
        if json:
            console.print_json(build=build)
            return
        error = from_status(build.error) if build.HasField("error") else None
        console.print_facts(
            (
                ("build", build.name),
                ("state", state(build)),
                ("stage", stage(build.stage)),
                ("done", f"{build.progress:.0%}"),
                ("engine", escape(build.engine)),
                ("error", f"{escape(error.message)} [dim]({error.reason})[/]" if error else ""),
                ("hint", escape(hint(error)) if error else ""),
                *spec_facts(build.spec),
                ("submitted", console.local_time(build.create_time)),
                ("started", console.local_time(build.start_time)),
                ("ended", console.local_time(build.end_time)),
                ("attempt", str(build.attempt) if build.attempt > 1 else ""),
            )
        )

    ask(command, builder=builder)


@app.command("watch")
def watch_build(name: Name, builder: Builder = None) -> None:
    """Follow a build to its end, from where it is."""

    async def command(client: Client) -> None:
        print_outcome(await watch(client, build_name(name)))

    ask(command, builder=builder)


@app.command()
def cancel(name: Name, json: Json = False, admin: BuilderAdmin = None) -> None:
    """Cancel a queued or running build."""

    async def command(client: Client) -> None:
        build = await client.builds.cancel(build_name(name))
        if json:
            console.print_json(build=build)
        else:
            console.out.print(f"{build.name} {state(build)}")

    ask(command, builder_admin=admin)


@app.command()
def logs(name: Name, json: Json = False, builder: Builder = None) -> None:
    """Print a build's log; of a running build, until it ends."""

    async def command(client: Client) -> None:
        events: list[WatchBuildResponse] = []
        async for event in client.builds.watch(build_name(name)):
            if json and event.HasField("log"):
                events.append(event)
            elif event.HasField("log"):
                console.out.print(event.log.text, markup=False)
        if json:
            console.print_json(events=events)

    ask(command, builder=builder)


def build_name(name: str) -> str:
    """builds/ID of an ID or of itself."""
    return name if name.startswith("builds/") else f"builds/{name}"


def state(build: Build) -> str:
    """A build's state, coloured."""
    word = Build.State.Name(build.state).removeprefix("STATE_").lower()
    return f"[{_COLOURS.get(word, 'default')}]{word}[/]"


def stage(value: Build.Stage.ValueType) -> str:
    """A stage in a word; empty before the first."""
    return Build.Stage.Name(value).removeprefix("STAGE_").lower() if value else ""


def spec_facts(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    """What a spec says, for `print_facts`."""
    cache = spec.cache
    return (
        ("source", escape(f"{spec.source.uri}@{spec.source.revision}".rstrip("@"))),
        ("adapter", escape(spec.source.adapter)),
        ("target", Target.Name(spec.target).removeprefix("TARGET_").lower()),
        ("precision", precision(spec)),
        ("cache", f"{cache.sink_tokens} sinks + {cache.window_tokens} tokens, {cache.max_slots} slots"),
    )


def precision(spec: ModelSpec) -> str:
    """A spec's precision in a word."""
    return Precision.Name(spec.precision).removeprefix("PRECISION_").lower()
