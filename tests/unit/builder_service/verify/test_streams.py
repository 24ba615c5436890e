"""The two sessions of VERIFY: where they stand, what they see, and that a step never takes more than it may."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from builder_service.verify.streams import BEFORE_THE_END, FAR, plan_streams, run
from common.engine.engine import Feed, FloatArray
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.families import write_family
from tests.samples.geometries import geometries


class Recorder:
    """An engine that remembers what it is fed, and finds a token likely that depends on the one before."""

    vocabulary_size = 7

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.fed: list[Feed] = []

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        self.fed += feeds
        last = [feed.tokens[-1] for feed in feeds if feed.tokens]
        return np.eye(7, dtype=np.float32)[[(token + 1) % 7 for token in last]] * 100

    def clear(self, slot: int) -> None:
        pass


@given(geometry=geometries())
@settings(deadline=None)
def test_streams_see_nothing_that_was_not_fed_and_cross_the_rings_end(geometry: Geometry) -> None:
    engine = Recorder(geometry)
    streams = plan_streams(engine)  # type: ignore[arg-type]
    assert streams[1].positions[-1] > FAR
    for stream in streams:
        assert list(stream.positions) == sorted(set(stream.positions))
        assert len(stream.tokens) == len(stream.positions)
        assert stream.sinks <= geometry.sinks
        assert 1 <= stream.window <= geometry.window
        behind = [position - stream.sinks for position in stream.positions[stream.sinks :]]
        full = behind[stream.window]
        assert (full + BEFORE_THE_END) % geometry.ring == 0  # the ring ends soon after the window is full
        assert behind[-1] // geometry.ring > full // geometry.ring
    engine.fed.clear()
    done = {0: 0, 1: 0}
    for fed in run(engine, streams):  # type: ignore[arg-type]
        assert fed.tokens.start == done[fed.stream]
        done[fed.stream] = fed.tokens.stop
    assert done == {index: len(stream.tokens) for index, stream in enumerate(streams)}
    stood = [{*stream.positions} for stream in streams]
    for feed in engine.fed:
        recent = range(max(feed.window.sinks, feed.position - feed.window.window + 1), feed.position)
        assert not feed.tokens or any({feed.position, *recent} <= positions for positions in stood)


def test_the_text_is_what_the_engine_finds_likely() -> None:
    first, second = plan_streams(Recorder(Geometry(2, 20, 4, 3)))  # type: ignore[arg-type]
    for stream in (first, second):
        assert all((after - before) % 7 == 1 for before, after in zip(stream.tokens, stream.tokens[1:], strict=False))


def test_no_token_is_seen_twice_however_often_the_engine_would_say_it(tmp_path: Path) -> None:
    """Of equal tokens it does not matter which are seen: attention could do anything and nobody would notice.

    A tied output matrix and large embeddings, as Gemma has them, make a random model repeat what it reads.
    """
    with closing(build_engine(write_family(tmp_path, "gemma2"), Geometry(4, 17, 8, slots=2))) as engine:
        for stream in plan_streams(engine):
            most = engine.vocabulary_size // 2
            assert all(len({*part}) == len(part) for part in (stream.tokens[i : i + most] for i in range(20)))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_what_is_heard_does_not_depend_on_who_is_beside(tmp_path: Path, slots: int) -> None:
    folder, window = write_checkpoint(tmp_path, tokenizer=False), SessionWindow(2, 9)
    with closing(build_engine(folder, Geometry(2, 9, 4, slots))) as engine:
        streams = plan_streams(engine)
        heard = [(fed.stream, fed.tokens[-1], fed.logits.copy()) for fed in run(engine, streams)]
    with closing(build_engine(folder, Geometry(2, 9, 4, 1))) as alone:
        again = {(fed.stream, fed.tokens[-1]): fed.logits.copy() for fed in run(alone, streams)}
    assert streams[0].window == window.window
    for stream, token, logits in heard:
        np.testing.assert_allclose(logits, again[stream, token], rtol=0, atol=1e-5 * np.abs(logits).max())
