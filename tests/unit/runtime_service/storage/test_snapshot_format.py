from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digest import digest_of
from runtime_service.storage.snapshot_format import from_bytes, to_bytes
from tests.samples.session_examples import slot_state

ENGINE, OTHER = digest_of(b"engine"), digest_of(b"other")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16, np.int8])
@pytest.mark.parametrize("position", [1, 9, 1 << 40])
def test_a_state_comes_out_as_it_went_in(dtype: type, position: int) -> None:
    state = slot_state(position, dtype=dtype)
    again = from_bytes(ENGINE, to_bytes(ENGINE, state))
    assert (again.position, again.window, again.geometry) == (state.position, state.window, state.geometry)
    for before, after in ((state.keys, again.keys), (state.values, again.values)):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert after.tobytes() == before.tobytes()


def test_a_state_of_another_engine_is_refused_with_both() -> None:
    with pytest.raises(ValueError, match=f"for engine {ENGINE}, not {OTHER}"):
        from_bytes(OTHER, to_bytes(ENGINE, slot_state()))


@given(st.data())
def test_whatever_is_cut_off_or_changed_is_found(data: st.DataObject) -> None:
    whole = to_bytes(ENGINE, slot_state())
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for broken in (whole[:at], changed, whole + b"\0", b""):
        with pytest.raises(ValueError, match="not what was written"):
            from_bytes(ENGINE, broken)
