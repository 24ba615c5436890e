"""Messages between a build's process and its worker: one JSON object a line, over the child's pipes.

The stages of a build see the worker as a `Parent`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from builder_service.pipeline.estimate import Estimate
from builder_service.queue.build import Stage, StageProgress
from builder_service.queue.failure import Failure
from builder_service.sources.uri import Remote
from common.spec.manifest import Manifest
from common.spec.model_spec import ModelSpec
from common.timeouts import STORE_TIMEOUT_S

LONGEST_LINE = 64 * 1024 * 1024


class Parent(Protocol):
    """The worker, as the stages of a build use it."""

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        """Report that the share `done` of `stage`, 0 to 1, is done; `bytes_total` is what the stage moves, if it counts
        bytes.
        """

    def expect(self, needs: Estimate) -> None:
        """Report the estimate of what the build needs."""

    def log(self, text: str) -> None:
        """Write a line to the build's log."""

    def may_build(self, key: str) -> bool:
        """Ask whether to build this key; False: the engine exists, or another build makes it."""

    def may_store(self, digests: tuple[str, ...]) -> bool:
        """Ask whether to store these blobs; once allowed, they are claimed and not deleted."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Order(_Message):
    """To the child, first: what to build, and where."""

    spec: ModelSpec
    work: Path
    source_roots: tuple[Path, ...]
    store_url: str
    store_timeout_s: float = STORE_TIMEOUT_S
    remote: Remote = Remote()
    """What else it may fetch, and how."""
    memory_limit_mib: int = 0
    """Most memory of its own that the child may have; 0: as much as there is."""


class Answer(_Message):
    """To the child, after each of its questions: whether to go on. If not, the child ends."""

    go_on: bool


class Progress(_Message):
    """From the child: progress of a stage; see `StageProgress`."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    done: float
    bytes_done: int = 0
    bytes_total: int = 0
    remaining_s: float | None = None

    @property
    def report(self) -> StageProgress:
        """The same as `StageProgress`."""
        return StageProgress(self.stage, self.done, self.bytes_done, self.bytes_total, self.remaining_s)


class Planned(_Message):
    """From the child, once: its estimate of memory, and its limit."""

    kind: Literal["planned"] = "planned"
    estimate_bytes: int
    limit_bytes: int


class Log(_Message):
    """From the child: a line."""

    kind: Literal["log"] = "log"
    text: str


class AskKey(_Message):
    """From the child: asks whether to build this key."""

    kind: Literal["ask_key"] = "ask_key"
    build_key: str


class AskStore(_Message):
    """From the child: asks whether it may store these blobs."""

    kind: Literal["ask_store"] = "ask_store"
    digests: tuple[str, ...]


class Built(_Message):
    """From the child, last: all files are in the store; this is the manifest, but for its version."""

    kind: Literal["built"] = "built"
    manifest: Manifest


class Failed(_Message):
    """From the child, last: the build failed."""

    kind: Literal["failed"] = "failed"
    failure: Failure


FromChild = Progress | Planned | Log | AskKey | AskStore | Built | Failed

_from_child: TypeAdapter[FromChild] = TypeAdapter(Annotated[FromChild, Field(discriminator="kind")])


def read_message(line: bytes) -> FromChild:
    """A message of a child."""
    return _from_child.validate_json(line)
