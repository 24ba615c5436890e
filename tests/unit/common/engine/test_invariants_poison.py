"""What numbers that are not finite, or simply wrong, can do in rows that nobody must see.

Guaranteed, and tested here in every precision:

* Rows of other slots, and rows that a step writes itself, may hold anything, NaN included: no bit changes.
* Rows of a slot that its session does not see may hold any *finite* numbers: no bit changes.
* A NaN or an infinity anywhere in a slot's own rows, seen or not, makes that session's logits not finite (a product
  with a masked row is 0 * NaN). So nothing is ever silently wrong: finite logits prove a clean slot, and `clear` or
  `import_slot` heals it.
* Padding that turns out not finite in an idle slot is wiped at once: the idle session never notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from common.engine.engine import Feed, FloatArray
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import GRAPH_PATH
from common.window import Geometry, SessionWindow, row, visible_rows
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine, export_graph
from tests.samples.streams import feed_all, random_tokens

GEOMETRY = Geometry(sinks=4, window=9, chunk=5, slots=3)
WINDOW = SessionWindow(3, 7)  # leaves a sink row and rows of the window that this session never uses
VOCABULARY = 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, tokenizer=False)


@pytest.fixture(scope="module", params=["fp32", "int8", "int4", "fp32 narrow", "int8 narrow"])
def loaded(request: pytest.FixtureRequest, folder: Path) -> Iterator[OnnxRuntimeEngine]:
    precision, _, narrow = request.param.partition(" ")
    engine = build_engine(folder, GEOMETRY, precision, narrow_cache=bool(narrow))
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: OnnxRuntimeEngine) -> OnnxRuntimeEngine:
    for slot in range(GEOMETRY.slots):
        loaded._pool.clear_rows(slot, 0, GEOMETRY.rows)
    return loaded


def fed(engine: OnnxRuntimeEngine, slot: int, position: int) -> list[int]:
    """A session at `position` in `slot`; returns its tokens and some more."""
    tokens = random_tokens(position + 10, VOCABULARY)
    feed_all(engine, slot, WINDOW, tokens[:position], [4])
    return tokens


def plant(engine: OnnxRuntimeEngine, slot: int, rows: list[int], value: float) -> None:
    """In a narrow cache, as the scale of numbers that are as large as they may be."""
    pool = engine._pool
    for array in pool.scales or (*pool.keys, *pool.values):
        array[slot, :, rows] = value
    for array in (*pool.keys, *pool.values) if pool.scales else ():
        array[slot, :, rows] = 127


def snapshot(engine: OnnxRuntimeEngine, slot: int) -> list[FloatArray]:
    return [array[slot].copy() for _, array in engine._pool.named()]


def put_back(engine: OnnxRuntimeEngine, slot: int, arrays: list[FloatArray]) -> None:
    for (_, array), kept in zip(engine._pool.named(), arrays, strict=True):
        array[slot] = kept


@pytest.mark.parametrize("position", [0, 2, 8, 15, 31])
def test_nan_in_other_slots_and_in_rows_that_the_step_writes_is_never_seen(
    engine: OnnxRuntimeEngine, position: int
) -> None:
    tokens = fed(engine, 1, position)
    before = snapshot(engine, 1)
    feed = Feed(1, position, WINDOW, tuple(tokens[position : position + 1]))
    (healthy,) = engine.step((feed,))
    put_back(engine, 1, before)
    for slot in (0, 2):
        plant(engine, slot, list(range(GEOMETRY.rows)), np.nan)
    plant(engine, 1, [row(GEOMETRY, WINDOW.sinks, position)], np.nan)
    (logits,) = engine.step((feed,))
    np.testing.assert_array_equal(logits, healthy)


def test_nan_where_padding_goes_is_written_over_before_anybody_looks(engine: OnnxRuntimeEngine) -> None:
    tokens = fed(engine, 0, 8)
    before = snapshot(engine, 0)
    feeds = (Feed(0, 8, WINDOW, tuple(tokens[8:9])), Feed(1, 3, WINDOW, tuple(tokens[:5])))
    healthy = engine.step(feeds)[0]
    put_back(engine, 0, before)
    first = GEOMETRY.sinks + 8 - WINDOW.sinks
    plant(engine, 0, list(range(first, first + 5)), np.nan)
    np.testing.assert_array_equal(engine.step(feeds)[0], healthy)


@pytest.mark.parametrize("value", [1e4, -1e4, 3.0])
@pytest.mark.parametrize("position", [0, 2, 3, 8, 15, 31])
def test_finite_garbage_in_every_row_that_is_not_seen_changes_no_bit(
    engine: OnnxRuntimeEngine, position: int, value: float
) -> None:
    """Rows of evicted tokens, of sinks that this session does not have, of padding, and the spare ones."""
    tokens = fed(engine, 1, position)
    before = snapshot(engine, 1)
    feed = Feed(1, position, WINDOW, (tokens[position],))
    (healthy,) = engine.step((feed,))
    put_back(engine, 1, before)
    seen = {place for part in visible_rows(GEOMETRY, WINDOW, position) for place in part}
    plant(engine, 1, sorted(set(range(GEOMETRY.rows)) - seen), value)
    (logits,) = engine.step((feed,))
    np.testing.assert_array_equal(logits, healthy)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["values", "keys"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("place", [0, 3, 6, GEOMETRY.rows - 1])
def test_one_number_that_is_not_finite_anywhere_in_a_slot_shows_in_its_logits(
    engine: OnnxRuntimeEngine, place: int, layer: int, kind: str, value: float
) -> None:
    tokens = fed(engine, 1, 10)
    pool, head = engine._pool, 1
    arrays, number = pool.values if kind == "values" else pool.keys, 5
    if pool.scales:  # those of keys, then those of values
        arrays, number, head = pool.scales, 0, 1 if kind == "keys" else 3
    arrays[layer][1, head, place, number] = value if kind == "values" else np.nan  # infinite keys may count for nothing
    logits = engine.step((Feed(0, 0, WINDOW, (1,)), Feed(1, 10, WINDOW, (tokens[10],))))
    assert np.isfinite(logits[0]).all()
    assert not np.isfinite(logits[1]).all()


def test_importing_heals_a_poisoned_slot(engine: OnnxRuntimeEngine) -> None:
    tokens = fed(engine, 1, 10)
    state = engine.export_slot(1, 10, WINDOW)
    healthy = engine.step((Feed(1, 10, WINDOW, (tokens[10],)),))
    plant(engine, 1, list(range(GEOMETRY.rows)), np.nan)
    engine.import_slot(1, state)
    np.testing.assert_array_equal(engine.step((Feed(1, 10, WINDOW, (tokens[10],)),)), healthy)


@pytest.mark.parametrize("narrow", [False, True])
def test_padding_that_is_not_finite_does_not_reach_an_idle_session(folder: Path, narrow: bool) -> None:
    """Padding of an idle slot feeds token 0; here token 0 is NaN in the embedding, as a broken weights file may be."""
    engine = poisoned_engine(folder, 0, narrow)
    tokens = [token or 1 for token in random_tokens(40, VOCABULARY)]
    want = feed_all(engine, 1, WINDOW, tokens, [1])
    engine.clear(1)
    for position, token in enumerate(tokens):
        chunk = tuple(tokens[:3])
        beside = engine.step((Feed(0, 0, WINDOW, chunk), Feed(1, position, WINDOW), Feed(2, 0, WINDOW, chunk)))
        assert np.isfinite(beside).all()
        (logits,) = engine.step((Feed(1, position, WINDOW, (token,)),))
        np.testing.assert_array_equal(logits, want[position])
    engine.close()


@pytest.mark.parametrize("narrow", [False, True])
def test_a_token_that_is_not_finite_fails_its_own_session_alone(folder: Path, narrow: bool) -> None:
    engine = poisoned_engine(folder, 7, narrow)
    tokens = [token if token != 7 else 8 for token in random_tokens(12, VOCABULARY)]
    want = [feed_all(engine, slot, WINDOW, tokens, [1])[11] for slot in range(3)]
    for slot in range(3):
        engine.clear(slot)
    for position, token in enumerate(tokens):
        bad = 7 if position == 4 else token
        logits = engine.step(tuple(Feed(slot, position, WINDOW, (bad if slot == 1 else token,)) for slot in range(3)))
        assert np.isfinite(logits[[0, 2]]).all()
        assert np.isfinite(logits[1]).all() == (position < 4)
    np.testing.assert_allclose(logits[[0, 2]], [want[0], want[2]], rtol=0, atol=1e-5 * np.abs(want[0]).max())
    engine.clear(1)
    np.testing.assert_array_equal(feed_all(engine, 1, WINDOW, tokens, [1])[11], want[1])
    engine.close()


def poisoned_engine(folder: Path, token: int, narrow: bool) -> OnnxRuntimeEngine:
    """An fp32 engine whose weights file holds NaN in the embedding of `token`."""
    copy = folder / f"poisoned-{token}-{narrow}"
    copy.mkdir()
    for file in ("config.json", "model.safetensors"):
        (copy / file).symlink_to(folder / file)
    out = export_graph(copy, GEOMETRY, "fp32", narrow_cache=narrow)
    graph = onnx.load(out / GRAPH_PATH, load_external_data=False).graph
    (embedding,) = (weight for weight in graph.initializer if weight.name.startswith("embed_tokens"))
    place = {entry.key: entry.value for entry in embedding.external_data}
    hidden = embedding.dims[1]
    weights = np.memmap(out / place["location"], np.float32, "r+", int(place["offset"]), tuple(embedding.dims))
    assert weights.shape == (VOCABULARY, hidden)
    weights[token] = np.nan
    weights.flush()
    return build_engine(copy, GEOMETRY, "fp32", narrow_cache=narrow)
