"""Headers of safetensors that are wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument, Reason
from tests.unit.builder_service.checkpoint.folders import ENTRY, write_raw

HEADERS: dict[str, tuple[object, int | None, str]] = {
    "too short for a length": (b"", 99, "not safetensors"),
    "longer than the file": ({"a": ENTRY}, 1 << 40, "not safetensors"),
    "not JSON": (b"{a", None, "model.safetensors does not hold valid JSON"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, None, "tensor a has no valid dtype"),
    "not an object": ({"a": 3}, None, "tensor a has no valid dtype"),
    "offsets of another size": ({"a": ENTRY | {"data_offsets": [0, 4]}}, None, "tensor a .* has 4 bytes; .* 8"),
    "offset before the data": ({"a": ENTRY | {"data_offsets": [-8, 0]}}, None, "tensor a"),
    "negative extent": ({"a": ENTRY | {"shape": [-2], "data_offsets": [8, 0]}}, None, "tensor a"),
    "endless extent": ({"a": ENTRY | {"shape": [math.inf, 2]}}, None, "tensor a has no valid dtype, shape"),
    "extent that is not a count": ({"a": ENTRY | {"shape": [1e30]}}, None, "tensor a has no valid dtype, shape"),
    "extent that is text": ({"a": ENTRY | {"shape": ["2"]}}, None, "tensor a has no valid dtype, shape"),
    "endless offset": ({"a": ENTRY | {"data_offsets": [0, math.inf]}}, None, "tensor a has no valid dtype, shape"),
    "huge extents": ({"a": ENTRY | {"shape": [10**4000] * 2}}, None, "tensor a has no valid dtype, shape"),
    "too many axes": ({"a": ENTRY | {"shape": [2, *[1] * 99]}}, None, "tensor a has no valid dtype, shape"),
    "past the end": ({"a": ENTRY | {"shape": [4], "data_offsets": [0, 16]}}, None, "cut off: tensor a"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_bad_header_is_refused_naming_file_and_tensor(tmp_path: Path, case: str) -> None:
    header, length, named = HEADERS[case]
    with pytest.raises(InvalidArgument, match=named) as raised:
        open_checkpoint(write_raw(tmp_path / "c", header, bytes(8), length))
    assert raised.value.reason is Reason.CHECKPOINT_INVALID
    assert raised.value.metadata["file"] == "model.safetensors"
