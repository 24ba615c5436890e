"""A workbench without a store: engines that are not models, of any cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder_service.sources.uri import Remote
from common.engine.engine import Engine
from common.errors import FailedPrecondition, Reason
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.engines.loader import Loaded
from sinkserve.evaluation.progress import Advance
from sinkserve.evaluation.workbench import Workbench
from tests.fakes.engine import FakeEngine
from tests.samples import vocabularies
from tests.samples.whole_manifests import TEMPLATE, make_manifest

VOCABULARY = 700


def make_fake(geometry: Geometry) -> Engine:
    return FakeEngine(geometry, vocabulary=VOCABULARY)


class FakeBench(Workbench):
    """`make` makes the engine and those of other caches; `fixed`: there are no others. `made` are their caches."""

    def __init__(
        self, geometry: Geometry, make: Callable[[Geometry], Engine] = make_fake, *, fixed: bool = False
    ) -> None:
        manifest = make_manifest(geometry, vocabulary=VOCABULARY, template=TEMPLATE)
        text = Text(vocabularies.byte_level(), manifest)
        super().__init__(manifest, Loaded(make(geometry), text), Path(), Remote())
        self.made: list[Geometry] = []
        self._make = make
        self._fixed = fixed

    @contextmanager
    def resized(self, geometry: Geometry) -> Iterator[Engine]:
        if self._fixed:
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, "its cache is compiled into it")
        self.made.append(geometry)
        yield self._make(geometry)


class Tracked:
    """Remembers what was to be done and what was."""

    def __init__(self) -> None:
        self.pieces: dict[str, tuple[int, int]] = {}

    @contextmanager
    def __call__(self, name: str, total: int) -> Iterator[Advance]:
        done: list[int] = []
        yield done.append
        self.pieces[name] = (sum(done), total)

    @property
    def is_complete(self) -> bool:
        return bool(self.pieces) and all(done == total for done, total in self.pieces.values())
