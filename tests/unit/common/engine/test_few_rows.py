"""Engines say the same however few rows of a slot they read, and wherever slots are moved for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.engine.engine import Feed, FloatArray
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.window import Geometry, SessionWindow, linear_run
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.streams import feed_all, random_tokens

LONG = Geometry(sinks=2, window=500, chunk=40, slots=4)
SHORT = Geometry(sinks=20, window=100, chunk=10, slots=4)
VOCABULARY = 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer=False)


def conversation(engine: OnnxRuntimeEngine) -> list[FloatArray]:
    """What a session says: read alone, then stepped beside another one, then read on alone past the window's end."""
    window, tokens = SessionWindow(2, 500), random_tokens(700, VOCABULARY)
    said = [*feed_all(engine, 1, window, tokens[:150], [40, 1, 3]).values()]
    for position in range(150, 153):
        own = Feed(1, position, window, (tokens[position],))
        said.append(engine.step((own, Feed(2, position - 150, window, (7,))))[0])
    said += feed_all(engine, 1, window, tokens, [40], start=153).values()
    return said


def crowd(engine: OnnxRuntimeEngine, seed: int) -> Iterator[FloatArray]:
    """What sessions say that come, read, decode together, are copied and go."""
    window, positions = SessionWindow(SHORT.sinks, 100), [0] * SHORT.slots
    random = np.random.default_rng(seed)
    for _ in range(80):
        slot, other, act = (int(number) for number in random.integers(0, (4, 4, 8)))
        if act == 0:
            engine.clear(slot)
            positions[slot] = 0
        elif act == 1:
            engine.import_slot(other, engine.export_slot(slot, positions[slot], window))
            positions[other] = positions[slot]
        else:
            busy = {slot} if act < 6 else {slot, other, 0}
            most = 1 if act == 7 else min(linear_run(SHORT, SHORT.sinks, positions[each]) for each in busy)
            count = int(random.integers(1, most + 1))
            tokens = {each: random_tokens(count, VOCABULARY, each) if each in busy else [] for each in range(4)}
            yield engine.step(tuple(Feed(n, positions[n], window, tuple(tokens[n])) for n in range(4)))
            positions = [position + len(tokens[each]) for each, position in enumerate(positions)]


def check_same(found: list[FloatArray], expected: list[FloatArray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(("precision", "narrow"), [("fp32", False), ("int8", False), ("int4", False), ("fp32", True)])
def test_a_session_that_grows(folder: Path, precision: str, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    few = build_engine(folder, LONG, precision, narrow_cache=narrow)
    said = conversation(few)
    assert {place.rows for place, *_ in few._bindings} == {128, 192, 256, 384, 512, LONG.rows}
    monkeypatch.setattr("common.engine.slot_layout.LEAST_ROWS", LONG.rows)
    check_same(said, conversation(build_engine(folder, LONG, precision, narrow_cache=narrow)))


@pytest.mark.parametrize(("precision", "narrow"), [("fp32", False), ("int8", False), ("int4", False), ("fp32", True)])
def test_long_steps_say_what_short_ones_do(folder: Path, precision: str, narrow: bool) -> None:
    window, tokens = SessionWindow(2, 500), random_tokens(600, VOCABULARY)
    engine = build_engine(folder, LONG, precision, narrow_cache=narrow)
    long = feed_all(engine, 0, window, tokens, [300])
    assert [*long] == [255, 383, 511, 540, 580, 599]  # up to the ring's end, then in chunks
    short = feed_all(engine, 1, window, tokens, [32] * 16 + [29, 40])
    check_same([long[at] for at in (511, 540, 580)], [short[at] for at in (511, 540, 580)])


@pytest.mark.parametrize("seed", range(5))
def test_sessions_that_come_and_go(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.engine.slot_layout.LEAST_ROWS", 16)
    monkeypatch.setattr("common.engine.slot_layout.SHRINKS_FOR", 8)
    few = build_engine(folder, SHORT)
    said = [*crowd(few, seed)]
    assert len({place for place, *_ in few._bindings}) > 8
    monkeypatch.setattr("common.engine.slot_layout.LEAST_ROWS", SHORT.rows)
    check_same(said, [*crowd(build_engine(folder, SHORT), seed)])
