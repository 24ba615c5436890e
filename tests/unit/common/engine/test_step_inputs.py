"""What the graph is told in one step, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.angles import Angles
from common.engine.batch import plan_batch
from common.engine.engine import Feed
from common.engine.step_inputs import MASKED, StepInputs
from common.spec.manifest import Rope
from common.window import Geometry, SessionWindow, linear_run, visible_rows
from tests.samples.geometries import geometries, windows

GEOMETRY = Geometry(sinks=2, window=4, chunk=3, slots=3)
WINDOW = SessionWindow(2, 4)
ROPE = Rope(inverse_frequencies=(1.0, 0.125))


@pytest.fixture
def inputs() -> StepInputs:
    return StepInputs(GEOMETRY, Angles.of(ROPE))


def test_tokens_rows_and_outputs_of_a_padded_batch(inputs: StepInputs) -> None:
    feeds = (Feed(0, 2, WINDOW, (5, 6, 7)), Feed(1, 9, WINDOW), Feed(2, 4, WINDOW, (8,)))
    views = inputs.fill(plan_batch(GEOMETRY, feeds))
    assert views.token_ids.tolist() == [[5, 6, 7], [0, 0, 0], [8, 8, 8]]  # padding repeats a session's own token
    assert views.write_rows.tolist() == [2, 2 + 7 % 6, 4]
    assert views.outputs.tolist() == [2, 3, 6]  # counted through the batch


@given(data=st.data(), geometry=geometries(slots=2))
def test_the_mask_opens_what_is_visible_and_nothing_else(data: st.DataObject, geometry: Geometry) -> None:
    feeds = []
    for slot in range(2):
        window = data.draw(windows(geometry))
        position = data.draw(st.integers(0, 60))
        count = data.draw(st.integers(1 - slot, linear_run(geometry, window.sinks, position)))
        feeds.append(Feed(slot, position, window, (1,) * count))
    batch = plan_batch(geometry, tuple(feeds))
    mask = StepInputs(geometry, Angles.of(ROPE)).fill(batch).mask
    assert set(np.unique(mask)) <= {MASKED, np.float32(0)}
    for index, feed in enumerate(batch.feeds):
        for k in range(batch.step):
            opened = set(np.flatnonzero(mask[index, 0, 0, k] == 0).tolist())
            if k < len(feed.tokens):
                parts = visible_rows(geometry, feed.window, feed.position + k)
                assert opened == {row for part in parts for row in part}
            else:
                assert opened == {batch.rows[index] + k}  # padding sees itself


def test_a_later_step_leaves_nothing_of_an_earlier_one(inputs: StepInputs) -> None:
    fresh = StepInputs(GEOMETRY, Angles.of(ROPE))
    inputs.fill(plan_batch(GEOMETRY, tuple(Feed(slot, 40, WINDOW, (9,) * 2) for slot in range(3))))
    batch = plan_batch(GEOMETRY, (Feed(0, 3, WINDOW, (1,)), Feed(1, 0, WINDOW, (2, 3))))
    used, new = inputs.fill(batch), fresh.fill(batch)
    for name, array in used.named().items():
        np.testing.assert_array_equal(array, new.named()[name])


def test_ring_angles_follow_the_position_and_sink_angles_stop_at_the_cache(inputs: StepInputs) -> None:
    views = inputs.fill(plan_batch(GEOMETRY, (Feed(0, 4, WINDOW, (1, 1, 1)),)))
    np.testing.assert_allclose(views.cos[0, :, 0], np.cos([4.0, 5.0, 6.0]), rtol=1e-6)
    np.testing.assert_allclose(views.sink_cos[0, :, 0], np.cos([4.0, 5.0, 5.0]), rtol=1e-6)
    np.testing.assert_allclose(views.sink_sin[0, :, 1], np.sin(np.array([4.0, 5.0, 5.0]) / 8), rtol=1e-6)


def test_buffers_stay_where_they_are(inputs: StepInputs) -> None:
    batch = plan_batch(GEOMETRY, (Feed(0, 4, WINDOW, (1, 1)),))
    first = {name: array.ctypes.data for name, array in inputs.fill(batch).named().items()}
    inputs.fill(plan_batch(GEOMETRY, tuple(Feed(slot, 0, WINDOW, (1,) * 2) for slot in range(3))))
    assert first == {name: array.ctypes.data for name, array in inputs.fill(batch).named().items()}
