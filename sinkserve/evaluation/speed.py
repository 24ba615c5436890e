"""Time per token by cache size: a token in a full cache of sinks and window, and the cache read anew for each token.

What is computed does not matter to how long it takes, so caches may be larger than the model's trained context.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from common.engine.engine import Engine, Feed
from common.errors import SinkServeError
from common.window import Geometry, SessionWindow, chunks
from sinkserve.evaluation.progress import Track
from sinkserve.evaluation.stream import read_anew
from sinkserve.evaluation.workbench import Workbench

SIZES = (256, 512, 1024, 2048, 4096)
CHUNKS = (64, 256)
"""Most tokens a step when a cache is read anew: the quicker one counts."""
ROUNDS = 5
STEPS = 40
"""Steps with a full cache in a round."""
TOKEN = 1


@dataclass(frozen=True)
class SpeedRow:
    """Medians in milliseconds a token at one size of the cache; `chunk` is the quicker one when it is read anew."""

    cache_tokens: int
    sinks_ms: float
    recompute_ms: float
    chunk: int

    @property
    def ratio(self) -> float:
        """How many times as long recomputation takes."""
        return self.recompute_ms / self.sinks_ms


@dataclass(frozen=True)
class Speed:
    """The measurement; `skipped` says why, by size."""

    engine: str
    threads: int
    rows: tuple[SpeedRow, ...]
    skipped: dict[str, str]


def measure_speed(
    bench: Workbench,
    sizes: Sequence[int],
    *,
    threads: int,
    track: Track,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time both ways at every size, by turns, so that both meet the same machine; a size that cannot be is skipped."""
    rows, skipped = list[SpeedRow](), dict[str, str]()
    for size in sizes:
        try:
            rows.append(_row(bench, size, track, clock))
        except SinkServeError as error:
            skipped[str(size)] = error.message
    return Speed(bench.manifest.reference, threads, tuple(rows), skipped)


def _row(bench: Workbench, size: int, track: Track, clock: Callable[[], float]) -> SpeedRow:
    own = bench.manifest.geometry
    sinks = min(own.sinks, size // 2)
    served = Geometry(sinks, size - sinks, own.chunk, 1)
    with bench.resized(served) as engine, _readers(bench, size) as readers:
        stream = _Stream(engine, SessionWindow(sinks, size - sinks))
        stream.fill()
        text = (TOKEN,) * size
        times: dict[int, list[float]] = {chunk: [] for chunk in readers}
        steps: list[float] = []
        with track(f"cache of {size}", ROUNDS) as advance:
            for _ in range(ROUNDS):
                steps += [_timed(stream.step, clock) for _ in range(STEPS)]
                for chunk, reader in readers.items():
                    times[chunk].append(_timed(lambda reader=reader: read_anew(reader, [text]), clock))  # type: ignore[misc]
                advance(1)
    chunk = min(times, key=lambda chunk: median(times[chunk]))
    return SpeedRow(size, 1e3 * median(steps), 1e3 * median(times[chunk]), chunk)


class _Stream:
    """A session in slot 0 that is always fed the same token."""

    def __init__(self, engine: Engine, window: SessionWindow) -> None:
        self._engine = engine
        self._window = window
        self._position = 0

    def fill(self) -> None:
        """Feed until the cache is full, and has been written to the end."""
        geometry = self._engine.geometry
        for count in chunks(geometry, self._window.sinks, 0, geometry.sinks + geometry.ring):
            self._feed(count)

    def step(self) -> None:
        """Feed one token."""
        self._feed(1)

    def _feed(self, count: int) -> None:
        self._engine.step((Feed(0, self._position, self._window, (TOKEN,) * count),))
        self._position += count


@contextmanager
def _readers(bench: Workbench, size: int) -> Iterator[dict[int, Engine]]:
    """Engines that read `size` tokens anew, by the most tokens a step."""
    with ExitStack() as opened:
        yield {
            chunk: opened.enter_context(bench.resized(Geometry(0, size, chunk, 1)))
            for chunk in sorted({min(chunk, size) for chunk in CHUNKS})
        }


def _timed(act: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    act()
    return clock() - start
