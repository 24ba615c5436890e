"""A build as a person watches it: a line a stage, the log above, and how it ended.

Everything that moves goes to stderr; stdout gets the engine's reference alone.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from sinkserve.builder.v1.builder_service_pb2 import Build, WatchBuildResponse
from sinkserve.cli import console
from sinkserve.cli.failures import FAILED, explain
from sinkserve.client import Client
from sinkserve.client.errors import from_status


async def watch(client: Client, name: str, *, goes_on: bool = True) -> Build:
    """Follow a build to its end. When interrupted, and the build `goes_on`, the person is told how to find it."""
    try:
        with make_view() as view:
            async for event in client.builds.watch(name):
                view.show(event)
    except asyncio.CancelledError:
        if goes_on:
            console.err.print(f"\n{name} goes on: `sinkserve builds watch {name}`, or `builds cancel {name}`")
        raise
    return await client.builds.get(name)


def print_outcome(build: Build, *, next_command: bool = True) -> None:
    """Print the engine's reference, or why there is none; raises typer.Exit for a build without an engine."""
    check_outcome(build)
    if not console.out.is_terminal:
        console.out.print(build.engine)
    if console.err.is_terminal:
        print_ready(build)
    if console.err.is_terminal and next_command:
        console.err.print(f"[dim]next:[/] sinkserve chat {escape(build.spec.name)}")


def print_ready(build: Build) -> None:
    """Tell a person that the engine is there."""
    took = build.end_time.ToMilliseconds() - build.start_time.ToMilliseconds()
    console.err.print(f"[bold green]{escape(build.engine)}[/] is ready [dim]· {console.duration(took / 1000)}[/]")


def check_outcome(build: Build) -> None:
    """Say why there is no engine, if there is none; raises typer.Exit then."""
    if build.state != Build.STATE_SUCCEEDED:
        explain(from_status(build.error))
        console.err.print(f"[dim]build[/] {build.name}")
        raise typer.Exit(FAILED)


class PlainView:
    """Lines for a file or a pipe: stages as they begin, and the log."""

    def __init__(self) -> None:
        self._stage: Build.Stage.ValueType = Build.STAGE_UNSPECIFIED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: WatchBuildResponse) -> None:
        """Show an event."""
        match event.WhichOneof("event"):
            case "log":
                self._log(event.log.text)
            case "progress":
                self._advance(event.progress.stage, event.progress.stage_progress)
            case "build" if event.build.stage:
                self._advance(event.build.stage, 1.0 if event.build.state == Build.STATE_SUCCEEDED else None)

    def _log(self, text: str) -> None:
        console.err.print(f"  {text}", markup=False)

    def _advance(self, stage: Build.Stage.ValueType, share: float | None) -> None:  # noqa: ARG002 - lines do not move
        if stage != self._stage:
            self._stage = stage
            console.err.print(_word(stage))


class BarView(PlainView):
    """A line a stage with a bar that moves, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            SpinnerColumn(style="cyan", finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="dim"),
            _ShareOrTime(),
            console=console.err,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _log(self, text: str) -> None:
        self._progress.console.print(f"  [dim]{escape(text)}[/]")

    def _advance(self, stage: Build.Stage.ValueType, share: float | None) -> None:
        if stage != self._stage:
            self._finish()
            self._stage = stage
            self._task = self._progress.add_task(f"{_word(stage):<9}", total=1.0)
        if self._task is not None and share is not None:
            self._progress.update(self._task, completed=share)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1.0)


class _ShareOrTime(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(console.duration(task.finished_time or 0.0), style="dim")
        return Text(f"{task.percentage:.0f}%")


def make_view() -> PlainView:
    """The view that suits where stderr goes."""
    return BarView() if console.err.is_terminal else PlainView()


def _word(stage: Build.Stage.ValueType) -> str:
    return Build.Stage.Name(stage).removeprefix("STAGE_").lower()
