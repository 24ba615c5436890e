"""Events of a build, as they are stored and watched.

A stored event does not repeat the spec, which never changes: its reader gets it from the build.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from builder_service.queue.build import Build, Stage, StageProgress
from common.spec.model_spec import ModelSpec


@dataclass(frozen=True)
class Changed:
    """The build changed state; `build` is the new one."""

    build: Build
    kind: Literal["changed"] = "changed"


@dataclass(frozen=True)
class Progressed:
    """Progress; bytes are 0 in a stage that counts none, `remaining_s` is None while it is unknown."""

    stage: Stage
    stage_progress: float
    progress: float
    bytes_done: int = 0
    bytes_total: int = 0
    remaining_s: float | None = None
    kind: Literal["progressed"] = "progressed"

    @classmethod
    def of(cls, report: StageProgress, progress: float) -> Self:
        """From a stage's report and the progress of the whole build."""
        return cls(report.stage, report.done, progress, report.bytes_done, report.bytes_total, report.remaining_s)


@dataclass(frozen=True)
class Logged:
    """The build wrote a line."""

    text: str
    kind: Literal["logged"] = "logged"


Event = Annotated[Changed | Progressed | Logged, Field(discriminator="kind")]


@dataclass(frozen=True)
class StoredEvent:
    """An event with its sequence number within its build."""

    sequence: int
    time: datetime
    event: Changed | Progressed | Logged


_events: TypeAdapter[Changed | Progressed | Logged] = TypeAdapter(Event)


def event_to_json(event: Changed | Progressed | Logged) -> str:
    """JSON for the database."""
    return _events.dump_json(event, exclude={"build": {"spec", "caller_span"}}).decode()


def event_from_json(text: str, spec: ModelSpec) -> Changed | Progressed | Logged:
    """From the database's JSON, of a build with this spec; older rows repeat it."""
    data = from_json(text)
    if "build" in data:
        data["build"]["spec"] = spec
    return _events.validate_python(data)
