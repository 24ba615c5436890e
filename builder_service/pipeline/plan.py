"""What the stages of a build hand on: the checkpoint, and what will be made of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from builder_service.chat.derive import DerivedText
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from builder_service.pipeline.estimate import Estimate
from builder_service.queue.build import Stage
from builder_service.sources.folder import SourceFile
from common.spec import model_spec as spec
from common.spec.hardware import Machine
from common.spec.manifest import Architecture, GenerationDefaults, Rope
from common.window import Geometry


class Parent(Protocol):
    """The worker, as a build sees it."""

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        """`done` of `stage` is done, 0 to 1, and of the bytes that it moves, if it counts them."""

    def expect(self, needs: Estimate) -> None:
        """What the build will need, as far as can be known before it begins."""

    def log(self, text: str) -> None:
        """A line for whoever watches."""

    def may_build(self, key: str) -> bool:
        """Ask whether to build this key; False: somebody has, or does."""

    def may_store(self, digests: tuple[str, ...]) -> bool:
        """Ask whether to store these blobs; nobody deletes them after that."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, read and digested.

    `origin` is where it comes from: of the hub, with the commit. `machine` is the one that the engine is compiled on,
    where that matters; `today` is what chat templates are told.
    """

    origin: spec.Source
    checkpoint: Checkpoint
    files: tuple[SourceFile, ...]
    tools: dict[str, str]
    key: str
    machine: Machine | None
    today: datetime


@dataclass(frozen=True)
class Plan:
    """What will be built, and where its files go before they are stored."""

    model: Model
    tensors: ModelTensors
    rope: Rope
    geometry: Geometry
    text: DerivedText
    end_token_ids: tuple[int, ...]
    generation: GenerationDefaults
    out: Path

    @property
    def architecture(self) -> Architecture:
        """Shapes of the model."""
        return self.model.architecture
