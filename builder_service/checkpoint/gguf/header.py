"""The header of a GGUF file: metadata by key, and where each tensor lies. Tensors themselves are not read here.

The `gguf` package's own reader makes an array of every word of a vocabulary, which takes many seconds and hundreds of
megabytes; VERIFY uses it, so that what is read wrongly here is seen there.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from builder_service.checkpoint.files import invalid

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MOST_AXES = 4  # of GGML's tensors
_SCALARS: Mapping[int, str] = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class StoredBlocks:
    """A tensor as a file holds it: rows of whole blocks of one type."""

    file: Path
    name: str
    """The file's own."""
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """In numpy's order, [out, in] for matrices."""
    offset: int
    """Bytes from the start of the file."""

    @property
    def rows(self) -> int:
        """Rows of a matrix; one of a vector."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        values, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // int(values) * int(size)


@dataclass(frozen=True)
class Header:
    """What stands before the tensors of a file."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredBlocks]
    """By the file's own names."""


def read_header(path: Path) -> Header:
    """Raises InvalidArgument (CHECKPOINT_INVALID) for what is no GGUF file, is cut off, or is not read here."""
    with path.open("rb") as stream:
        reader = _Reader(stream, path)
        reader.begin()
        tensors, keys = reader.number("Q"), reader.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = reader.text()
            if key in metadata:
                raise reader.broken(f"{key} is there twice")
            metadata[key] = reader.value(reader.number("I"))
        entries = [reader.entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise reader.broken(f"general.alignment is {alignment!r:.80}; a power of two is needed")
        if len({entry.name for entry in entries}) != len(entries):
            raise reader.broken("two tensors have the same name")
        start = -(-stream.tell() // alignment) * alignment
    return Header(metadata, {entry.name: _placed(entry, start, reader) for entry in entries})


class _Reader:
    """Reads one value after another; every length is checked against what is left of the file."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self.path = path
        self.size = path.stat().st_size

    def broken(self, why: str, *, tensor: str = "") -> Exception:
        """The error for this file."""
        return invalid(f"{self.path.name}: {why}", file=self.path.name, tensor=tensor)

    def begin(self) -> None:
        """Magic and version."""
        if self.size < len(MAGIC) or self._stream.read(len(MAGIC)) != MAGIC:
            raise self.broken("this is no GGUF file: it does not begin with the letters GGUF")
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise self.broken("the file is big-endian; convert it with gguf_convert_endian.py of the gguf package")
        if version not in VERSIONS:
            raise self.broken(f"version {version} of the format is not read; versions 2 and 3 are")

    def number(self, code: str) -> Any:  # noqa: ANN401 - whatever struct gives for the code
        """One number, by its letter in `struct`."""
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        """A length and so many bytes of UTF-8."""
        data = self._bytes(self.number("Q"))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"a text of the header is not UTF-8: {error}") from None

    def value(self, kind: int) -> Any:  # noqa: ANN401 - what the metadata hold
        """A value of one of GGUF's types; arrays are lists."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            raise self.broken(f"a value of the header has type {kind}, which is not known")
        item, count = self.number("I"), self.number("Q")
        if item in _SCALARS:
            code = _SCALARS[item]
            data = self._bytes(count * struct.calcsize(f"<{code}"))
            return list(struct.unpack(f"<{count}{code}", data))
        if item != GGUFValueType.STRING:
            raise self.broken(f"an array of the header has items of type {item}, which are not known")
        return [self.text() for _ in range(count)]

    def entry(self) -> StoredBlocks:
        """One tensor's description; `offset` still counts from the start of the tensors."""
        name, axes = self.text(), self.number("I")
        if not 1 <= axes <= MOST_AXES:
            raise self.broken(f"tensor {name} has {axes} axes; 1 to {MOST_AXES} are needed", tensor=name)
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        number, offset = self.number("I"), self.number("Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            known = ", ".join(sorted(kind.name for kind in GGML_QUANT_SIZES))
            raise self.broken(
                f"tensor {name} has type {number}, which is not known; {known} are", tensor=name
            ) from None
        return StoredBlocks(self.path, name, kind, shape, offset)

    def _bytes(self, count: int) -> bytes:
        at = self._stream.tell()
        if count > self.size - at:
            raise self.broken(f"the file is cut off: its header goes on behind its end at byte {self.size}")
        return self._stream.read(count)


def _placed(entry: StoredBlocks, start: int, reader: _Reader) -> StoredBlocks:
    """The tensor with its place in the file; raises unless it is whole."""
    block = GGML_QUANT_SIZES[entry.kind][0]
    if entry.shape[-1] % block:
        message = f"tensor {entry.name} has rows of {entry.shape[-1]}; {entry.kind.name} needs a multiple of {block}"
        raise reader.broken(message, tensor=entry.name)
    offset = start + entry.offset
    end = offset + entry.rows * entry.row_bytes
    if end > reader.size:
        message = f"the file is cut off: tensor {entry.name} ends at byte {end}, the file at byte {reader.size}"
        raise reader.broken(message, tensor=entry.name)
    return StoredBlocks(entry.file, entry.name, entry.kind, entry.shape, offset)
