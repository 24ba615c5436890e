"""SinkServe on a GGUF file: an engine of a precision, built if need be, and logits after every token of a text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.engine.engine import Engine, Feed, FloatArray
from common.settings import SharedSettings
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source
from common.window import SessionWindow, linear_run
from runtime_service.settings import RuntimeSettings
from sinkserve.cli.build.submit import build_here, readable_roots
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.cli.terminal.options import own_remote
from sinkserve.evaluation.workbench import Workbench

CACHE = CacheGeometry(sink_tokens=4, window_tokens=252, chunk_tokens=64, max_slots=8)


@contextmanager
def workbench(model: Path, precision: str, threads: int) -> Iterator[Workbench]:
    """The engine of a file, under SINKSERVE_HOME; built again only where the file or this release is another."""
    name = re.sub(r"[^a-z0-9._-]+", "-", f"{model.stem}-{precision}".lower())[:63]
    source = Source(uri=str(model.resolve()))
    spec = ModelSpec(name=name, source=source, precision=Precision(precision), cache=CACHE)
    with embedded_services(*readable_roots(spec.source)) as services:
        reference = asyncio.run(build_here(services.builder, spec))
    settings = RuntimeSettings.load({"threads": threads})
    opened = Workbench.open(reference, SharedSettings.load(), settings, own_remote())
    try:
        yield opened
    finally:
        opened.close()


def reading(engine: Engine) -> Callable[[list[int]], FloatArray]:
    """Logits [token, vocabulary] of a piece that the cache of `engine` holds, read from an empty cache."""
    geometry = engine.geometry
    window = SessionWindow(geometry.sinks, geometry.window)

    def read(piece: list[int]) -> FloatArray:
        assert len(piece) <= window.capacity
        engine.clear(0)
        found, position = [], 0
        while position < len(piece):
            run = min(linear_run(geometry, window.sinks, position), engine.draft_rows or 1)
            fed = Feed(0, position, window, tuple(piece[position : position + run]))
            found.append(engine.step((replace(fed, wanted=len(fed.tokens)),)))
            position += len(fed.tokens)
        return np.concatenate(found)

    return read
