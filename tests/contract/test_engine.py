"""What every engine does, whatever executes it: the promises of `common.engine.engine.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.engine.engine import Engine, Feed, FloatArray, SlotState
from common.window import Geometry, SessionWindow, held_positions
from tests.fakes.engine import FakeEngine
from tests.fakes.gpu import build_tensorrt_engine, install
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.streams import feed_all, feed_of, random_tokens

GEOMETRY = Geometry(sinks=4, window=13, chunk=6, slots=4)
FULL = SessionWindow(4, 13)
LESS = SessionWindow(1, 5)
CLOSE = {"fake": 0.0, "fp32": 1e-5} | dict.fromkeys(("int8", "int4", "int4/64", "int4/128"), 5e-2)
CLOSE |= dict.fromkeys(("fp32 narrow", "int8 narrow"), 5e-2)  # with a narrow cache
CLOSE |= {"tensorrt-fp32": 1e-5, "tensorrt-fp16": 2**-6, "tensorrt-bf16": 2**-3}
"""How far off logits may be, of the largest logit, between other shapes of steps."""

MakeEngine = Callable[[Geometry], Engine]


@pytest.fixture(scope="module", params=list(CLOSE))
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeEngine]:
    """Makers of engines; those of TensorRT run on a GPU that is none."""
    if request.param == "fake":
        yield FakeEngine
        return
    kind, _, block = request.param.partition("/")
    target, _, precision = kind.rpartition("-")
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, tokenizer=False)
    if not target:
        yield lambda geometry: build_engine(
            folder, geometry, precision.split()[0], int4_block=int(block or 32), narrow_cache=" " in precision
        )
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        cuda = install(monkeypatch)
        yield lambda geometry: build_tensorrt_engine(folder, geometry, precision)
        assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {}), "memory is left"


@pytest.fixture(scope="module")
def shared(make: MakeEngine) -> Iterator[Engine]:
    engine = make(GEOMETRY)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: Engine) -> Engine:
    for slot in range(GEOMETRY.slots):
        shared.clear(slot)
    return shared


@pytest.fixture
def close(request: pytest.FixtureRequest) -> Callable[[FloatArray, FloatArray], bool]:
    bound = CLOSE[request.node.callspec.params["make"]]
    return lambda got, want: bool(np.abs(got - want).max() <= bound * np.abs(want).max())


def poison(engine: Engine, slot: int, state: SlotState, value: float = np.nan) -> None:
    """Put `value` into one number of the slot's state."""
    values, keys = state.values.copy(), state.keys.copy()
    if keys.dtype == np.int8:  # where the last bytes of a row are its scale
        values[0, 0, 0, -4:] = keys[..., -4:] = np.array([value], np.float32).view(np.int8)
    else:
        values[0, 0, 0, 0] = keys[...] = np.float32(value).view(np.uint32) >> 16 if keys.dtype == np.uint16 else value
    engine.import_slot(slot, replace(state, values=values, keys=keys))


def test_it_says_its_geometry_and_vocabulary(engine: Engine) -> None:
    assert engine.geometry == GEOMETRY
    assert engine.step((Feed(0, 0, FULL, (1,)),)).shape == (1, engine.vocabulary_size)


def test_logits_come_in_the_order_of_the_feeds(engine: Engine) -> None:
    feeds = (Feed(3, 0, FULL, (5, 6)), Feed(0, 0, LESS), Feed(1, 0, LESS, (7,)))
    logits = engine.step(feeds)
    for slot in range(GEOMETRY.slots):
        engine.clear(slot)
    turned = engine.step(feeds[::-1])
    assert logits.dtype == np.float32
    assert logits.shape == (2, engine.vocabulary_size)
    np.testing.assert_array_equal(logits, turned[::-1])
    assert not np.array_equal(logits[0], logits[1])


def test_logits_stay_what_they_were_when_the_next_step_runs(engine: Engine) -> None:
    first = engine.step((Feed(0, 0, FULL, (5,)),))
    kept = first.copy()
    engine.step((Feed(0, 1, FULL, (6,)),))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("window", [FULL, LESS, SessionWindow(0, 1)])
def test_chunks_are_worth_what_single_tokens_are(
    engine: Engine, window: SessionWindow, close: Callable[[FloatArray, FloatArray], bool]
) -> None:
    tokens = random_tokens(70, engine.vocabulary_size)
    single = feed_all(engine, 0, window, tokens, [1])
    engine.clear(0)
    for position, logits in feed_all(engine, 0, window, tokens, [6, 2, 5]).items():
        assert close(logits, single[position])


def test_the_window_is_all_that_a_session_remembers(engine: Engine) -> None:
    """Two histories that differ only in evicted tokens end alike; one that differs in a sink does not."""
    tokens = random_tokens(120, engine.vocabulary_size)
    other = tokens[:4] + random_tokens(30, engine.vocabulary_size, seed=1) + tokens[34:]
    another = [(tokens[0] + 1) % engine.vocabulary_size, *tokens[1:]]
    ends = []
    for stream in (tokens, other, another):
        engine.clear(0)
        ends.append(feed_all(engine, 0, FULL, stream, [1])[119])
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-4 * np.abs(ends[0]).max())
    assert not np.allclose(ends[0], ends[2], rtol=0, atol=1e-2 * np.abs(ends[0]).max())


def test_neighbours_that_come_idle_and_go_change_nothing(
    engine: Engine, close: Callable[[FloatArray, FloatArray], bool]
) -> None:
    tokens, noise = random_tokens(60, engine.vocabulary_size), random_tokens(60, engine.vocabulary_size, seed=1)
    alone = feed_all(engine, 1, FULL, tokens, [1])
    engine.clear(1)
    idle = 0
    for position in range(60):
        own = Feed(1, position, FULL, (tokens[position],))
        if position % 7 == 3:  # somebody else's chunk, while the session under test sits idle between
            own_idle = Feed(1, position, FULL)
            first = feed_of(engine, 0, LESS, noise, idle, 6)
            engine.step((first, own_idle, Feed(2, 0, FULL, (9, 8, 7))))
            idle += len(first.tokens)
        logits = engine.step((Feed(0, idle, LESS), own) if position % 2 else (own, Feed(3, 0, FULL, (1, 2))))
        assert close(logits[0], alone[position])


def test_tokens_are_taken_back_by_not_advancing(
    engine: Engine, close: Callable[[FloatArray, FloatArray], bool]
) -> None:
    tokens = random_tokens(80, engine.vocabulary_size)
    alone = feed_all(engine, 0, LESS, tokens, [1])
    engine.clear(0)
    for position in range(80):
        tried = feed_of(engine, 0, LESS, [*tokens[:position], *([7] * 6)], position, 6)
        engine.step((tried,))
        (logits,) = engine.step((Feed(0, position, LESS, (tokens[position],)),))
        assert close(logits, alone[position])


@pytest.mark.parametrize("window", [FULL, LESS])
def test_logits_after_several_tokens_are_those_of_as_many_steps(
    engine: Engine, window: SessionWindow, close: Callable[[FloatArray, FloatArray], bool]
) -> None:
    """Drafts that are right and wrong by turns, over sinks and ring, beside an idle slot and one that decodes."""
    if not engine.draft_rows:
        pytest.skip("it checks no drafts")
    tokens = random_tokens(70, engine.vocabulary_size)
    single, other = (feed_all(engine, slot, window, tokens, [1]) for slot in (0, 2))
    for slot in (0, 2):
        engine.clear(slot)
    position = neighbour = 0
    while position < 60:
        right = feed_of(engine, 0, window, tokens, position, 1 + position % 5)
        wanted = 1 + position % len(right.tokens)
        feeds = (replace(right, wanted=wanted), Feed(1, 0, LESS), Feed(2, neighbour, window, (tokens[neighbour],)))
        got = engine.step(feeds if position % 3 else feeds[::-1])
        own, beside = (got[:wanted], got[wanted]) if position % 3 else (got[1:], got[0])
        assert got.shape == (wanted + 1, engine.vocabulary_size)
        end = position + len(right.tokens)
        assert all(close(row, single[at]) for row, at in zip(own, range(end - wanted, end), strict=True))
        assert close(beside, other[neighbour])
        position += 1 + position % len(right.tokens)  # what the rest of the draft was is taken back
        neighbour += 1


def test_drafts_beyond_what_it_checks_are_refused(engine: Engine) -> None:
    rows = engine.draft_rows
    for wanted in (0, 5):
        with pytest.raises(ValueError, match=rf"after {wanted} tokens are wanted"):
            engine.step((Feed(0, 4, FULL, (1, 2, 3, 4), wanted),))
    if rows:
        assert engine.step((Feed(0, 4, FULL, (1, 2, 3, 4), 4),)).shape == (4, engine.vocabulary_size)
    slots = GEOMETRY.slots
    with pytest.raises(ValueError, match=rf"at most {rows} rows"):
        engine.step(tuple(Feed(slot, 4, FULL, (1,) * 6, 2) for slot in range(slots)))


def test_a_cleared_slot_is_as_good_as_new(engine: Engine, make: MakeEngine) -> None:
    tokens = random_tokens(50, engine.vocabulary_size)
    feed_all(engine, 2, FULL, tokens, [6])
    engine.clear(2)
    used = feed_all(engine, 2, FULL, tokens[::-1], [4])
    other = make(GEOMETRY)
    fresh = feed_all(other, 2, FULL, tokens[::-1], [4])
    other.close()
    for position, logits in used.items():
        np.testing.assert_array_equal(logits, fresh[position])


@pytest.mark.parametrize("position", [0, 1, 3, 4, 5, 17, 18, 40])
@pytest.mark.parametrize("window", [FULL, LESS])
def test_an_imported_session_goes_on_bit_by_bit(engine: Engine, window: SessionWindow, position: int) -> None:
    tokens = random_tokens(position + 30, engine.vocabulary_size)
    feed_all(engine, 0, window, tokens[:position], [5])
    state = engine.export_slot(0, position, window)
    stayed = feed_all(engine, 0, window, tokens, [3, 1], start=position)
    feed_all(engine, 3, FULL, tokens[::-1], [6])  # what lay there before must not matter
    engine.import_slot(3, state)
    for at, logits in feed_all(engine, 3, window, tokens, [3, 1], start=position).items():
        np.testing.assert_array_equal(logits, stayed[at])


@pytest.mark.parametrize("position", [0, 2, 4, 11, 100])
@pytest.mark.parametrize("window", [FULL, LESS])
def test_a_state_holds_what_the_next_token_sees_and_no_more(
    engine: Engine, window: SessionWindow, position: int
) -> None:
    feed_all(engine, 0, window, random_tokens(position, engine.vocabulary_size), [6])
    state = engine.export_slot(0, position, window)
    held = sum(len(part) for part in held_positions(window, position))
    assert state.keys.shape == state.values.shape
    assert state.keys.shape[2] == held <= window.capacity - 1
    assert (state.position, state.window, state.geometry) == (position, window, GEOMETRY)
    assert state.size_bytes == 2 * state.keys.nbytes


def test_a_state_is_a_copy(engine: Engine) -> None:
    tokens = random_tokens(20, engine.vocabulary_size)
    feed_all(engine, 0, FULL, tokens, [6])
    state = engine.export_slot(0, 20, FULL)
    kept = state.keys.copy()
    feed_all(engine, 0, FULL, tokens * 3, [6], start=20)
    engine.clear(0)
    np.testing.assert_array_equal(state.keys, kept)


def test_a_state_of_another_geometry_is_refused(engine: Engine, make: MakeEngine) -> None:
    other = make(replace(GEOMETRY, window=12))
    other.step((Feed(0, 0, SessionWindow(4, 12), (1, 2)),))
    state = other.export_slot(0, 2, SessionWindow(4, 12))
    other.close()
    with pytest.raises(ValueError, match="window=12"):
        engine.import_slot(0, state)


@pytest.mark.parametrize(
    "feeds",
    [
        (),
        (Feed(0, 0, FULL),),
        (Feed(0, 0, FULL, (1,)), Feed(0, 0, FULL)),
        (Feed(4, 0, FULL, (1,)),),
        (Feed(0, 0, SessionWindow(5, 13), (1,)),),
        (Feed(0, 0, SessionWindow(2, 13), (1, 1, 1)),),  # its ring is not behind its sinks
        (Feed(0, 0, FULL, (-1,)),),
        (Feed(0, 0, FULL, (1 << 20,)),),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_changes_nothing(engine: Engine, feeds: tuple[Feed, ...]) -> None:
    tokens = random_tokens(9, engine.vocabulary_size)
    want = feed_all(engine, 0, FULL, tokens, [4])[8]
    engine.clear(0)
    feed_all(engine, 0, FULL, tokens[:8], [4])
    with pytest.raises(ValueError, match=r"."):
        engine.step(feeds)
    (logits,) = engine.step((Feed(0, 8, FULL, (tokens[8],)),))
    np.testing.assert_array_equal(logits, want)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_poisoned_session_fails_alone_and_a_cleared_slot_is_healthy(engine: Engine, slot: int) -> None:
    tokens = random_tokens(20, engine.vocabulary_size)

    def run() -> FloatArray:
        return engine.step(tuple(Feed(i, 8, FULL, (tokens[i], tokens[i + 9])) for i in range(3)))

    for i in range(3):
        feed_all(engine, i, FULL, tokens[i : i + 8], [4])
    states = [engine.export_slot(i, 8, FULL) for i in range(3)]
    healthy = run()
    for i in range(3):
        engine.import_slot(i, states[i])
    poison(engine, slot, states[slot])
    logits = run()
    assert not np.isfinite(logits[slot]).any()
    for i in {0, 1, 2} - {slot}:
        np.testing.assert_array_equal(logits[i], healthy[i])
    for i in range(3):
        engine.import_slot(i, states[i])
    np.testing.assert_array_equal(run(), healthy)
