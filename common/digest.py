"""Digests, written `sha256:HEX` everywhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_PREFIX = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK_BYTES = 4 * 1024 * 1024


def is_digest(text: str) -> bool:
    """Whether `text` is sha256: and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_hex(digest: str) -> str:
    """The hexadecimal digits of a digest; raises ValueError for anything else."""
    if not is_digest(digest):
        raise ValueError(f"{digest!r} is not a digest such as sha256:0123...")
    return digest.removeprefix(_PREFIX)


class Hasher:
    """Computes a digest piece by piece."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes."""
        self._hash.update(data)
        self.size_bytes += len(data)

    @property
    def digest(self) -> str:
        """Digest of all bytes so far."""
        return _PREFIX + self._hash.hexdigest()


def digest_of(data: bytes) -> str:
    """Digest of bytes in memory."""
    return _PREFIX + hashlib.sha256(data).hexdigest()


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of `file`, a few megabytes at a time."""
    while data := file.read(CHUNK_BYTES):
        yield data


def digest_file(path: Path, read: Callable[[int], None] = lambda _: None) -> str:
    """Digest of a file, read in pieces; `read` is called with the size of each piece in bytes."""
    with path.open("rb") as file:
        return digest_stream(file, read)


def digest_stream(file: BinaryIO, read: Callable[[int], None] = lambda _: None) -> str:
    """Digest of the rest of an open file; `read` as in `digest_file`."""
    hasher = Hasher()
    for data in chunks(file):
        hasher.update(data)
        read(len(data))
    return hasher.digest
