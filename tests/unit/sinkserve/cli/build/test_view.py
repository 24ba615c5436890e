"""What a person sees of a build, event by event."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from sinkserve.builder.v1.builder_service_pb2 import Build, WatchBuildResponse
from sinkserve.cli.build.view import BarView, PlainView, detail
from sinkserve.cli.terminal import console

Progress = WatchBuildResponse.Progress
QUEUED = Build(state=Build.STATE_QUEUED)
STARTED = Build(state=Build.STATE_RUNNING, stage=Build.STAGE_RESOLVE)
VERIFYING = Progress(stage=Build.STAGE_VERIFY, stage_progress=0.25)
FAILED = Build(state=Build.STATE_FAILED, stage=Build.STAGE_VERIFY)
PUBLISHED = Build(state=Build.STATE_SUCCEEDED, stage=Build.STAGE_PUBLISH)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What goes to a terminal on stderr."""
    text = StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=True, width=100, color_system=None))
    return text


def _show(view: PlainView, *events: Build | Progress) -> None:
    with view:
        view.show(WatchBuildResponse(build=PUBLISHED))  # the snapshot of a build that is watched again
        for number, event in enumerate(events, 1):
            message = WatchBuildResponse(sequence=number)
            (message.build if isinstance(event, Build) else message.progress).CopyFrom(event)  # type: ignore[arg-type]
            view.show(message)


def test_lines_tell_the_stages_in_order_and_that_it_begins_again(screen: StringIO) -> None:
    _show(PlainView(), QUEUED, STARTED, VERIFYING, QUEUED, STARTED, PUBLISHED)
    assert screen.getvalue().split("\n")[:-1] == ["queued", "resolve", "verify", "queued again", "resolve", "publish"]


def test_what_is_over_has_a_tick_and_what_failed_a_cross(screen: StringIO) -> None:
    _show(BarView(), QUEUED, STARTED, VERIFYING, FAILED)
    shown = screen.getvalue()
    assert "✓ resolve" in shown
    assert "✗ verify" in shown
    assert "✓ verify" not in shown


def test_a_build_that_is_queued_again_has_not_finished_its_stage(screen: StringIO) -> None:
    _show(BarView(), QUEUED, STARTED, VERIFYING, QUEUED, STARTED, PUBLISHED)
    shown = screen.getvalue()
    assert "queued again" in shown
    assert "✗ verify" in shown
    assert "✓ verify" not in shown
    assert "✓ publish" in shown


def test_the_bytes_and_the_time_left_are_told_where_they_are_known() -> None:
    assert detail(Progress(stage=Build.STAGE_VERIFY)) == ""
    moved = Progress(bytes_done=516_427_776, bytes_total=1_102_205_952)
    assert detail(moved) == "516 MB of 1.1 GB"
    moved.remaining_duration.FromMilliseconds(18_771)
    assert detail(moved) == "516 MB of 1.1 GB, 19 s left in all"
