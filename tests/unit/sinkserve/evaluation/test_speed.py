"""What is timed, over engines that are not models and a clock that counts."""

from __future__ import annotations

from itertools import count, pairwise

from common.engine.engine import Engine
from common.window import Geometry
from sinkserve.evaluation.speed import ROUNDS, STEPS, measure_speed
from tests.fakes.engine import FakeEngine
from tests.unit.sinkserve.evaluation.bench import VOCABULARY, FakeBench, Tracked

GEOMETRY = Geometry(2, 10, 4, 2)


def test_times_are_medians_of_the_clock_by_size_and_larger_caches_are_made() -> None:
    ticks = count()
    bench, track = FakeBench(GEOMETRY), Tracked()
    found = measure_speed(bench, (16, 32), threads=3, track=track, clock=lambda: float(next(ticks)))
    assert [row.cache_tokens for row in found.rows] == [16, 32]
    assert {(row.sinks_ms, row.recompute_ms, row.ratio) for row in found.rows} == {(1000.0, 1000.0, 1.0)}
    assert next(ticks) == 2 * 2 * ROUNDS * (STEPS + 1)
    assert Geometry(2, 14, 4, 1) in bench.made
    assert Geometry(0, 32, 32, 1) in bench.made
    assert track.is_complete
    assert found.threads == 3


def test_a_step_is_timed_in_a_full_cache_and_reading_anew_reads_all_of_it() -> None:
    engines: list[FakeEngine] = []

    def make(geometry: Geometry) -> Engine:
        engines.append(FakeEngine(geometry, vocabulary=VOCABULARY))
        return engines[-1]

    measure_speed(FakeBench(GEOMETRY, make), (16,), threads=1, track=Tracked())
    _, served, *readers = engines
    singles = [feeds[0] for feeds in served.steps[-STEPS * ROUNDS :]]
    assert all(len(feed.tokens) == 1 and feed.position >= 16 for feed in singles)
    assert [second.position - first.position for first, second in pairwise(singles)] == [1] * (len(singles) - 1)
    for reader in readers:
        assert sum(len(feeds[0].tokens) for feeds in reader.steps) == 16 * ROUNDS


def test_a_size_that_cannot_be_is_left_out_with_the_reason() -> None:
    found = measure_speed(FakeBench(GEOMETRY, fixed=True), (16,), threads=1, track=Tracked())
    assert (found.rows, found.skipped) == ((), {"16": "its cache is compiled into it"})
