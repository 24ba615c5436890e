from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digest import CHUNK_BYTES, Hasher, digest_file, digest_hex, digest_of, is_digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_digest_is_spelled_as_everywhere() -> None:
    assert digest_of(b"") == EMPTY
    assert digest_hex(EMPTY) == EMPTY.removeprefix("sha256:")


@pytest.mark.parametrize(
    "text", ["", "sha256:", EMPTY[:-1], EMPTY + "0", EMPTY.upper(), "md5:" + EMPTY[7:], EMPTY + "\n"]
)
def test_anything_else_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(ValueError, match="is not a digest"):
        digest_hex(text)


@given(st.lists(st.binary(max_size=50)))
def test_pieces_digest_as_the_whole(pieces: list[bytes]) -> None:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest == digest_of(b"".join(pieces))
    assert hasher.size_bytes == sum(map(len, pieces))


def test_a_file_is_read_in_pieces_that_are_reported(tmp_path: Path) -> None:
    data = bytes(CHUNK_BYTES + 3)
    (tmp_path / "file").write_bytes(data)
    sizes: list[int] = []
    assert digest_file(tmp_path / "file", sizes.append) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert sizes == [CHUNK_BYTES, 3]
