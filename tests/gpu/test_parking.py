"""I4 on a GPU: a session leaves its slot, and goes on in another one, or in another engine.

Bit by bit with the same kernels, that is with the same plan and the same shapes of steps; else within tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from common.engine.engine import Engine, Feed, FloatArray, SlotState
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from tests.fakes.gpu import TensorRtEngine, compile_plan
from tests.gpu.tolerances import TOLERANCES
from tests.samples.checkpoints import write_checkpoint
from tests.samples.streams import feed_all, feed_of, largest_error, random_tokens

pytestmark = pytest.mark.gpu

GEOMETRY = Geometry(4, 13, 6, slots=4)
WINDOWS = [SessionWindow(4, 13), SessionWindow(1, 5)]
POSITIONS = [0, 3, 4, 7, 18, 40, 101]
ALIGNED, UNALIGNED = 64, 8  # numbers in a head: with the first, every slot begins at an aligned address


@dataclass(frozen=True)
class Parking:
    """Engines of one plan."""

    folder: Path
    precision: Precision

    def engine(self, slots: int = GEOMETRY.slots) -> TensorRtEngine:
        model, geometry = read_model(open_checkpoint(self.folder).config), replace(GEOMETRY, slots=slots)
        plan = compile_plan(self.folder, GEOMETRY, self.precision)
        return TensorRtEngine(plan, model.architecture, read_rope(model, geometry), geometry)

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]


@pytest.fixture(scope="module", params=list(TOLERANCES))
def precision(request: pytest.FixtureRequest) -> Precision:
    return Precision(request.param)


@pytest.fixture(scope="module", params=[ALIGNED, UNALIGNED])
def parking(request: pytest.FixtureRequest, precision: Precision, tmp_path_factory: pytest.TempPathFactory) -> Parking:
    folder = tmp_path_factory.mktemp("parking")
    return Parking(write_checkpoint(folder, head_dim=request.param, tokenizer=False), precision)


@pytest.fixture(scope="module")
def shared(parking: Parking) -> Iterator[TensorRtEngine]:
    with closing(parking.engine()) as engine:
        yield engine


@pytest.fixture
def engine(shared: TensorRtEngine) -> TensorRtEngine:
    for slot in range(GEOMETRY.slots):
        shared.clear(slot)
    return shared


def assert_same(got: SlotState, want: SlotState) -> None:
    assert (got.position, got.window) == (want.position, want.window)
    np.testing.assert_array_equal(got.keys, want.keys)
    np.testing.assert_array_equal(got.values, want.values)


def parked(engine: Engine, slot: int, window: SessionWindow, tokens: list[int], position: int) -> SlotState:
    """Feed the session up to `position`, and take it out."""
    feed_all(engine, slot, window, tokens[:position], [4, 1])
    return engine.export_slot(slot, position, window)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", WINDOWS)
def test_what_goes_into_any_slot_comes_out_bit_by_bit(
    engine: TensorRtEngine, window: SessionWindow, position: int
) -> None:
    tokens, noise = (random_tokens(position + 30, 384, seed) for seed in (0, 1))
    state = parked(engine, 0, window, tokens, position)
    for slot in range(GEOMETRY.slots):
        engine.clear(slot)
        feed_all(engine, slot, WINDOWS[0], noise, [6])  # what lay there before must not matter
        engine.import_slot(slot, state)
        assert_same(engine.export_slot(slot, position, window), state)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", WINDOWS)
def test_an_imported_session_goes_on_bit_by_bit_in_its_slot_and_within_tolerance_elsewhere(
    engine: TensorRtEngine, parking: Parking, window: SessionWindow, position: int
) -> None:
    tokens = random_tokens(position + 30, 384)
    state = parked(engine, 0, window, tokens, position)
    stayed = feed_all(engine, 0, window, tokens, [3, 1], start=position)
    for slot in range(GEOMETRY.slots):
        engine.import_slot(slot, state)
        goes_on(feed_all(engine, slot, window, tokens, [3, 1], start=position), stayed, engine, slot, parking.tolerance)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_second_engine_with_fewer_slots_takes_it_over_bit_by_bit(
    engine: TensorRtEngine, parking: Parking, position: int
) -> None:
    window, tokens = WINDOWS[0], random_tokens(position + 30, 384)
    state = parked(engine, 0, window, tokens, position)
    with closing(parking.engine(slots=2)) as other:
        other.import_slot(0, state)
        assert_same(other.export_slot(0, position, window), state)
        moved = feed_all(other, 0, window, tokens, [1, 5], start=position)
    stayed = feed_all(engine, 0, window, tokens, [1, 5], start=position)
    goes_on(moved, stayed, engine, 0, parking.tolerance)


def test_sessions_come_and_go_while_their_neighbours_step(engine: TensorRtEngine, parking: Parking) -> None:
    """Slots 0 and 2 go on all the time; the session between them leaves and comes back every fifth step."""
    window, streams = WINDOWS[0], [random_tokens(60, 384, seed) for seed in range(3)]
    alone = [alone_in(engine, 3, window, stream) for stream in streams]
    away: SlotState | None = None
    done = [0, 0, 0]
    for turn in range(120):
        idle = tuple(Feed(slot, done[slot], window) for slot in (0, 2))
        if turn % 5 == 4:
            away = leave_or_come_back(engine, away, Feed(1, done[1], window), idle)
        present = (0, 2) if away is not None else (0, 1, 2)
        feeds = [feed_of(engine, slot, window, streams[slot], done[slot], 1 + (turn + slot) % 4) for slot in present]
        busy = tuple(feed for feed in feeds if feed.tokens)
        for feed, logits in zip(busy, engine.step(tuple(feeds)) if busy else (), strict=True):
            done[feed.slot] += len(feed.tokens)
            error = largest_error({done[feed.slot] - 1: logits}, alone[feed.slot])
            assert error <= parking.tolerance, (turn, feed)
    assert done == [60, 60, 60]


def alone_in(engine: Engine, slot: int, window: SessionWindow, tokens: list[int]) -> list[FloatArray]:
    """Logits after every token, one by one."""
    engine.clear(slot)
    return list(feed_all(engine, slot, window, tokens, [1]).values())


def goes_on(
    got: dict[int, FloatArray], want: dict[int, FloatArray], engine: TensorRtEngine, slot: int, tolerance: float
) -> None:
    """Bit by bit where a step of `slot` alone has the shape that it has in slot 0."""
    assert got.keys() == want.keys()
    for position, logits in got.items():
        if slot % engine.slot_multiple == 0:
            np.testing.assert_array_equal(logits, want[position])
        else:
            assert np.abs(logits - want[position]).max() <= tolerance * np.abs(want[position]).max()


def leave_or_come_back(
    engine: Engine, away: SlotState | None, session: Feed, neighbours: tuple[Feed, ...]
) -> SlotState | None:
    """Somebody else's tokens are in the slot meanwhile."""
    if away is not None:
        engine.import_slot(session.slot, away)
        return None
    state = engine.export_slot(session.slot, session.position, session.window)
    engine.clear(session.slot)
    engine.step((Feed(session.slot, 0, session.window, (7, 8, 9)), *neighbours))
    return state
