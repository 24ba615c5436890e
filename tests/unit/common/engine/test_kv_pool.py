"""The pool by itself; what engines do with it is in the contract suite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.kv_pool import ALIGNMENT, KvPool, aligned_zeros
from common.engine.packed_rows import as_floats, unpack
from common.spec.manifest import Architecture
from common.window import Geometry, SessionWindow, held_positions, row

GEOMETRY = Geometry(sinks=2, window=5, chunk=3, slots=2)
SHAPES = Architecture(
    family="llama",
    layers=2,
    hidden=8,
    heads=4,
    kv_heads=2,
    head_dim=2,
    intermediate=8,
    vocabulary=10,
    trained_context=64,
    parameters=1,
)


@pytest.fixture(params=[False, True], ids=["rows", "columns"])
def pool(request: pytest.FixtureRequest) -> KvPool:
    """Values by row and by column."""
    return KvPool(SHAPES, GEOMETRY, value_columns=request.param)


def write(pool: KvPool, slot: int, position: int, sinks: int) -> None:
    """Mark the row of `position` with the position itself."""
    at = row(GEOMETRY, sinks, position)
    pool.lay_out(slot, (at + 1,), 1)
    for array in (*pool.keys, *pool.values):
        array[slot, :, at] = position


@pytest.mark.parametrize(("columns", "values"), [(False, "value_cache"), (True, "value_columns")])
def test_every_layer_has_keys_and_values_of_zeros_by_the_graphs_names(columns: bool, values: str) -> None:
    arrays = dict(KvPool(SHAPES, GEOMETRY, value_columns=columns).named())
    assert sorted(arrays) == ["key_cache_0", "key_cache_1", f"{values}_0", f"{values}_1"]
    for name, array in arrays.items():
        assert array.shape == ((2, 2, 2, GEOMETRY.rows) if "columns" in name else (2, 2, GEOMETRY.rows, 2))
        assert array.flags.c_contiguous
        assert not array.any()


def test_what_is_written_by_row_is_where_the_graph_reads_columns() -> None:
    pool = KvPool(SHAPES, GEOMETRY, value_columns=True)
    pool.values[1][0, 1, 4] = (3, 5)
    assert dict(pool.named())["value_columns_1"][0, 1, :, 4].tolist() == [3, 5]


def test_a_state_fits_however_values_lie(pool: KvPool) -> None:
    for written in range(20):
        write(pool, 0, written, 2)
    state = pool.export_slot(0, 20, SessionWindow(2, 3))
    for columns in (False, True):
        other = KvPool(SHAPES, GEOMETRY, value_columns=columns)
        other.import_slot(1, state)
        assert np.array_equal(other.export_slot(1, 20, state.window).values, state.values)


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (64, 64)])
def test_arrays_begin_on_a_cache_line(shape: tuple[int, ...]) -> None:
    assert aligned_zeros(shape).ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("position", [0, 1, 2, 5, 9, 30])
def test_a_state_is_in_the_order_of_positions(pool: KvPool, position: int) -> None:
    window = SessionWindow(1, 4)
    for written in range(position):
        write(pool, 1, written, window.sinks)
    state = pool.export_slot(1, position, window)
    sinks, recent = held_positions(window, position)
    assert state.keys.shape[:2] == (2, 2)
    assert state.values[0, 0, :, 0].tolist() == [*sinks, *recent]
    assert state.keys[1, 1, :, 1].tolist() == [*sinks, *recent]


def test_importing_puts_rows_back_and_zeroes_the_others(pool: KvPool) -> None:
    window = SessionWindow(2, 3)
    for written in range(20):
        write(pool, 0, written, window.sinks)
        write(pool, 1, written + 100, 0)
    state = pool.export_slot(0, 20, window)
    pool.import_slot(1, state)
    expected = {row(GEOMETRY, 2, position): position for part in held_positions(window, 20) for position in part}
    for array in (*pool.keys, *pool.values):
        assert array[1, 1, :, 0].tolist() == [expected.get(r, 0) for r in range(GEOMETRY.rows)]


def test_clearing_touches_no_slot_but_its_own(pool: KvPool) -> None:
    for slot in range(2):
        write(pool, slot, 7, 2)
    pool.clear(0)
    for _, array in pool.named():
        assert not array[0].any()
        assert array[1].any()


def test_a_state_of_another_model_is_refused(pool: KvPool) -> None:
    other = KvPool(SHAPES.model_copy(update={"kv_heads": 1}), GEOMETRY)
    state = other.export_slot(0, 3, SessionWindow(2, 5))
    with pytest.raises(ValueError, match="does not fit"):
        pool.import_slot(0, state)
    assert not np.concatenate([array.reshape(-1) for _, array in pool.named()]).any()


def test_rows_of_eight_bits_come_and_go_with_their_scales() -> None:
    pool, other = KvPool(SHAPES, GEOMETRY, narrow=True), KvPool(SHAPES, GEOMETRY, narrow=True)
    names = dict(pool.named())
    rows = GEOMETRY.rows
    assert {name: array.shape for name, array in names.items() if name.endswith("_1")} == {
        "key_bytes_1": (2, 2, 2, rows),
        "value_bytes_1": (2, 2, rows, 2),
        "kv_scales_1": (2, 4, 1, rows),
    }
    random = np.random.default_rng(0)
    for _, array in pool.named():
        array[0] = random.integers(-127, 128, array[0].shape)
    state = pool.export_slot(0, 20, SessionWindow(2, 5))
    assert state.keys.dtype == np.int8
    assert state.keys.shape == (2, 2, 6, 2 + 4)
    numbers, scales = unpack(state.keys)
    held = [0, 1, *(row(GEOMETRY, 2, position) for position in range(16, 20))]
    np.testing.assert_array_equal(numbers[1], names["key_bytes_1"][0].swapaxes(1, 2)[:, held])
    np.testing.assert_array_equal(scales[1, :, :, 0], names["kv_scales_1"][0, :2, 0, held].T)
    np.testing.assert_array_equal(as_floats(state.values), np.multiply(*unpack(state.values)))
    other.import_slot(1, state)
    again = other.export_slot(1, 20, state.window)
    np.testing.assert_array_equal(again.keys, state.keys)
    np.testing.assert_array_equal(again.values, state.values)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_state_of_another_precision_is_refused_and_says_both(narrow: bool) -> None:
    pool, other = (KvPool(SHAPES, GEOMETRY, narrow=form) for form in (narrow, not narrow))
    state = other.export_slot(0, 3, SessionWindow(2, 5))
    found, wanted = ("float32", "int8") if narrow else ("int8", "float32")
    with pytest.raises(ValueError, match=rf"{found}.*does not fit.*{wanted}"):
        pool.import_slot(0, state)


LONG = Geometry(sinks=2, window=500, chunk=40, slots=4)


@pytest.mark.parametrize("form", [{}, {"value_columns": True}, {"narrow": True}])
@given(data=st.data())
def test_sessions_keep_their_rows_wherever_they_are_moved(form: dict[str, bool], data: st.DataObject) -> None:
    pool, ends = KvPool(SHAPES, LONG, varies=True, **form), [0] * LONG.slots
    for number in range(1, data.draw(st.integers(2, 12))):
        first = data.draw(st.integers(0, 3))
        size, step = data.draw(st.integers(1, 4 - first)), data.draw(st.sampled_from((1, 40, 90)))
        if data.draw(st.integers(0, 5)) == 0:
            pool.clear(first)
            ends[first] = 0
        slots = range(first, first + size)
        step = min(step, *(LONG.rows - ends[slot] for slot in slots))
        place = pool.lay_out(first, tuple(ends[slot] + step for slot in slots), step)
        for _, array in pool.part(place, size):
            by_row = array.swapaxes(2, 3) if array.shape[3] == place.rows else array
            for index, slot in enumerate(slots):
                held = np.array([row % 7 + slot + 1 for row in range(ends[slot])])
                assert np.array_equal(by_row[index, 1, : ends[slot], 0], held), number
                assert not by_row[index, :, ends[slot] :].any()
                new = np.arange(ends[slot], ends[slot] + step) % 7 + slot + 1
                by_row[index, :, ends[slot] : ends[slot] + step] = new[:, None]
        for slot in slots:
            ends[slot] += step


def test_what_was_cleared_is_zero_wherever_it_was() -> None:
    pool = KvPool(SHAPES, LONG, value_columns=True, varies=True)
    for first, size in ((1, 1), (1, 2), (0, 3)):
        for _, array in pool.part(pool.lay_out(first, (256,) * size, 20), size):
            array[:] = 1
    for slot in range(3):
        pool.clear(slot)
    assert not any(array.any() for _, array in pool.named())
