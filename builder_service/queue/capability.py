"""What a builder can build: which targets, for which GPU, from which sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from builder_service.sources.uri import Folder, Place, Remote, read_adapter_place, read_place
from common.engine.tensorrt.library import rtx_version
from common.engine.tensorrt.machine import find_machine
from common.errors import FailedPrecondition, SinkServeError
from common.spec.model_spec import ModelSpec, Target

_ANYWHERE = (Target.ONNXRUNTIME, Target.TENSORRT_LLM)


class Capability(BaseModel):
    """What one builder can build; every builder writes its own into the registry."""

    model_config = ConfigDict(frozen=True)

    compute_capability: str = ""
    """Of the GPU that it compiles on; empty: it has none."""
    tensorrt_rtx: str = ""
    """Version of its TensorRT-RTX, which needs no GPU to compile; empty: it has none."""
    folders: tuple[Path, ...] = ()
    """Source roots that are folders, links followed."""
    prefixes: tuple[str, ...] = ()
    """Source roots that are URL prefixes."""

    @classmethod
    def here(cls, folders: tuple[Path, ...], prefixes: tuple[str, ...]) -> Self:
        """The capability of this process."""
        return cls(
            compute_capability=_or_none(lambda: find_machine().compute_capability),
            tensorrt_rtx=_or_none(rtx_version),
            folders=folders,
            prefixes=prefixes,
        )

    def can_build(self, spec: ModelSpec) -> bool:
        """Whether it has the hardware and may read the source. Does not check that the source exists."""
        return self._has_hardware(spec) and self._may_read(spec)

    def _has_hardware(self, spec: ModelSpec) -> bool:
        if spec.target in _ANYWHERE:
            return True
        if spec.target is Target.TENSORRT_RTX:
            return bool(self.tensorrt_rtx)
        return bool(self.compute_capability) and spec.hardware.compute_capability in ("", self.compute_capability)

    def _may_read(self, spec: ModelSpec) -> bool:
        try:
            places = (read_place(spec.source), read_adapter_place(spec.source))
            return all(self._may_read_at(place) for place in places if place)
        except (SinkServeError, OSError):
            return False

    def _may_read_at(self, place: Place) -> bool:
        if not isinstance(place, Folder):
            Remote(roots=self.prefixes).check_allowed(place)
            return True
        real = Path(os.path.realpath(place.path))
        return any(real.is_relative_to(root) for root in self.folders)


def _or_none(find: Callable[[], str]) -> str:
    try:
        return find()
    except FailedPrecondition:
        return ""
