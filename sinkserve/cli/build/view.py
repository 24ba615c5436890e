"""A build as a person watches it: a line a stage, the log above, and how it ended.

Everything that moves goes to stderr; stdout gets the engine's reference alone.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from sinkserve.builder.v1.builder_service_pb2 import Build, WatchBuildResponse
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import FAILED, explain
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
    """Say why there is no engine, and what to do next, if there is none; raises typer.Exit then."""
    if build.state != Build.STATE_SUCCEEDED:
        explain(from_status(build.error))
        console.err.print(f"[dim]build[/] {build.name} [dim]·[/] sinkserve builds logs {build.name}")
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
        """Show an event; the first snapshot of a watch is skipped, since its events repeat it."""
        match event.WhichOneof("event"):
            case "log":
                self._log(event.log.text)
            case "progress":
                self._advance(event.progress.stage, event.progress.stage_progress, detail(event.progress))
            case "build" if event.sequence:
                self._change(event.build)

    def _change(self, build: Build) -> None:
        if build.state == Build.STATE_QUEUED:
            self._wait(again=self._stage != Build.STAGE_UNSPECIFIED)
            self._stage = Build.STAGE_UNSPECIFIED
        elif build.state == Build.STATE_RUNNING:
            self._advance(build.stage, None)
        elif build.state == Build.STATE_SUCCEEDED:
            self._advance(build.stage, 1.0)
        else:
            self._break_off()

    def _wait(self, *, again: bool) -> None:
        console.err.print("queued again" if again else "queued")

    def _break_off(self) -> None:
        """Mark the stage as not finished."""

    def _log(self, text: str) -> None:
        console.err.print(f"  {text}", markup=False)

    def _advance(self, stage: Build.Stage.ValueType, share: float | None, said: str = "") -> None:
        del share, said  # lines do not move
        if stage != self._stage:
            self._stage = stage
            console.err.print(_word(stage))


class BarView(PlainView):
    """A line a stage with a bar that moves, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            _Mark(style="cyan", finished_text="[green]✓[/]"),
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

    def _advance(self, stage: Build.Stage.ValueType, share: float | None, said: str = "") -> None:
        if stage != self._stage:
            self._finish()
            self._stage = stage
            self._begin(_word(stage))
        if self._task is not None and share is not None:
            self._progress.update(self._task, completed=share, said=said)

    def _wait(self, *, again: bool) -> None:
        self._break_off()
        if again:
            self._log("queued again")
        self._begin("queued", total=None)

    def _begin(self, word: str, total: float | None = 1.0) -> None:
        self._task = self._progress.add_task(f"{word:<9}", total=total, said="", broken=False)

    def _finish(self) -> None:
        """Mark the stage as finished; time in the queue is not shown."""
        if self._task is None:
            return
        if self._stage == Build.STAGE_UNSPECIFIED:
            self._progress.remove_task(self._task)
        else:
            self._progress.update(self._task, completed=1.0)
        self._task = None

    def _break_off(self) -> None:
        if self._stage == Build.STAGE_UNSPECIFIED:
            self._finish()
        elif self._task is not None:
            self._progress.update(self._task, said="", broken=True)
            self._progress.stop_task(self._task)


class _Mark(SpinnerColumn):
    """Turns; in the end a tick, or a cross."""

    def render(self, task: Task) -> RenderableType:
        return Text("✗", "red") if task.fields["broken"] else super().render(task)


class _ShareOrTime(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(console.duration(task.finished_time or 0.0), style="dim")
        if task.total is None:
            return Text("")
        return Text.assemble(f"{task.percentage:3.0f}%  ", (task.fields["said"], "dim"))


def detail(progress: WatchBuildResponse.Progress) -> str:
    """Details of a stage beside its share: `1.2 of 2.2 GB, 40 s left in all`; empty where neither is known."""
    parts = []
    if progress.bytes_total:
        done, total = console.size(progress.bytes_done), console.size(progress.bytes_total)
        same_unit = done.split()[-1] == total.split()[-1]
        parts.append(f"{done.split()[0] if same_unit else done} of {total}")
    if progress.HasField("remaining_duration"):
        parts.append(f"{console.duration(round(progress.remaining_duration.ToMilliseconds() / 1000))} left in all")
    return ", ".join(parts)


def make_view() -> PlainView:
    """The view that suits where stderr goes."""
    return BarView() if console.err.is_terminal else PlainView()


def _word(stage: Build.Stage.ValueType) -> str:
    return Build.Stage.Name(stage).removeprefix("STAGE_").lower()
