"""Tensors in safetensors files: headers are checked when the files are opened, data is read a few rows at a time.

A file is 8 bytes of header length, a JSON header and raw little-endian data. Knows nothing of architectures.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.checkpoint.files import invalid, parse_json

BLOCK_BYTES = 16 << 20  # of float32, the most that `blocks` holds at a time
LONGEST_HEADER = 100_000_000  # the limit of the reference implementation
MOST_EXTENT = 2**53  # as far as other readers of JSON count exactly
MOST_AXES = 32  # of a numpy array
STORAGE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
WHOLE = {"I32": "<i4", "I64": "<i8"}  # of packed weights, and what is said about them


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype((STORAGE | WHOLE)[self.dtype]).itemsize


class SafetensorsFiles:
    """`StoredTensors` in one file or several. A wrong header raises InvalidArgument (CHECKPOINT_INVALID)."""

    def __init__(self, files: Sequence[Path], weight_map: Mapping[str, str] = MappingProxyType({})) -> None:
        """`weight_map`, an index, says in which of the files a tensor is; others of its name are not read."""
        self._files = tuple(files)
        self._tensors: dict[str, TensorEntry] = {}
        for file in self._files:
            for name, entry in _read_header(file).items():
                if weight_map.get(name, file.name) == file.name:
                    self._add(name, entry)
        for name, wanted in weight_map.items():
            if name not in self._tensors:
                message = f"the index says that tensor {name} is in {wanted}, and it is not"
                raise invalid(message, file=wanted, tensor=name)

    def _add(self, name: str, entry: TensorEntry) -> None:
        if (other := self._tensors.get(name)) is not None:
            files = f"{other.file.name} and {entry.file.name}"
            raise invalid(f"tensor {name} is in {files}, and no index says which is right", file=files, tensor=name)
        self._tensors[name] = entry

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._tensors))

    @property
    def all_names(self) -> frozenset[str]:
        """Names of all tensors, to look in."""
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._entry(name).shape

    def header(self, name: str) -> tuple[str, tuple[int, ...], str]:
        """Type, shape and file of a tensor of any type."""
        entry = self._found(name)
        return entry.dtype, entry.shape, entry.file.name

    def whole_numbers(self, name: str) -> npt.NDArray[Any]:
        """A whole tensor of one of the types in WHOLE."""
        entry = self._found(name)
        if entry.dtype not in WHOLE:
            raise _unread(entry, name, WHOLE)
        return _read_raw(entry, name, np.dtype(WHOLE[entry.dtype]), 0, math.prod(entry.shape)).reshape(entry.shape)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`."""
        entry = self._entry(name)
        if entry.shape != shape:
            found, wanted = list(entry.shape), list(shape)
            message = f"tensor {name} in {entry.file.name} has shape {found}; config.json asks for {wanted}"
            raise invalid(message, file=entry.file.name, tensor=name)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        entry = self._entry(name)
        return _read(entry, name, 0, _rows(entry)).reshape(entry.shape)

    def blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[FloatArray]:
        """The tensor's rows, or those in `rows`, as float32, in blocks of at most BLOCK_BYTES (but at least a row)."""
        entry = self._entry(name)
        row_bytes = 4 * math.prod(entry.shape[1:])
        step = max(1, BLOCK_BYTES // max(row_bytes, 1))
        for part in rows or (range(_rows(entry)),):
            for start in range(part.start, part.stop, step):
                yield _read(entry, name, start, min(step, part.stop - start))

    def _entry(self, name: str) -> TensorEntry:
        """Of a tensor of floats."""
        entry = self._found(name)
        if entry.dtype not in STORAGE:
            raise _unread(entry, name, STORAGE)
        return entry

    def _found(self, name: str) -> TensorEntry:
        if name not in self._tensors:
            files = ", ".join(path.name for path in self._files)
            raise invalid(f"tensor {name} is missing from {files}", file=files, tensor=name)
        return self._tensors[name]


def _unread(entry: TensorEntry, name: str, known: Mapping[str, str]) -> Exception:
    message = f"tensor {name} in {entry.file.name} is {entry.dtype}; {', '.join(known)} are read"
    return invalid(message, file=entry.file.name, tensor=name, dtype=entry.dtype)


def _rows(entry: TensorEntry) -> int:
    return entry.shape[0] if entry.shape else 1


def _read(entry: TensorEntry, name: str, start: int, count: int) -> FloatArray:
    """`count` rows from row `start`, as finite float32."""
    dtype = np.dtype(STORAGE[entry.dtype])
    row = math.prod(entry.shape[1:])
    raw = _read_raw(entry, name, dtype, start * row, count * row)
    values = _to_float32(raw, entry.dtype).reshape(count, *entry.shape[1:])
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        raise invalid(f"tensor {name} in {entry.file.name} is not finite", file=entry.file.name, tensor=name)
    return values


def _read_raw(entry: TensorEntry, name: str, dtype: np.dtype[Any], start: int, count: int) -> npt.NDArray[Any]:
    """`count` numbers as they are stored, from number `start`."""
    raw = np.fromfile(entry.file, dtype, count, offset=entry.offset + start * dtype.itemsize)
    if raw.size != count:
        raise invalid(f"{entry.file.name} ends inside tensor {name}", file=entry.file.name, tensor=name)
    return raw


def _to_float32(raw: npt.NDArray[Any], dtype: str) -> FloatArray:
    if dtype == "BF16":  # the upper half of a float32
        widened = raw.astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
    with np.errstate(over="ignore"):  # too large a float64 is refused with what is not finite
        return raw.astype(np.float32, copy=False)


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """All tensors of one file; data must lie inside it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            message = f"{file.name} is not safetensors, or is cut off: its header would be {length} of {size} bytes"
            raise invalid(message, file=file.name)
        header = parse_json(stream.read(length), file.name)
    header.pop("__metadata__", None)
    return {name: _read_entry(file, size, 8 + length, name, fields) for name, fields in header.items()}


def _read_entry(file: Path, size: int, data_start: int, name: str, fields: object) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = (fields[key] for key in ("dtype", "shape", "data_offsets"))  # type: ignore[index]
        entry = TensorEntry(file, str(dtype), _extents(shape), data_start + _extents([begin])[0])
        stop = data_start + _extents([end])[0]
    except (KeyError, TypeError, ValueError):
        message = f"tensor {name} has no valid dtype, shape and data_offsets in the header of {file.name}"
        raise invalid(message, file=file.name, tensor=name) from None
    if entry.dtype not in STORAGE | WHOLE:
        return entry  # refused when it is read; a tensor that nobody reads may have any type
    if stop - entry.offset != entry.size_bytes:
        message = f"tensor {name} in {file.name} has {stop - entry.offset} bytes; its shape needs {entry.size_bytes}"
        raise invalid(message, file=file.name, tensor=name)
    if stop > size:
        message = f"{file.name} is cut off: tensor {name} ends at byte {stop}, the file at byte {size}"
        raise invalid(message, file=file.name, tensor=name)
    return entry


def _extents(values: object) -> tuple[int, ...]:
    """Counts from a header; raises ValueError for anything else, such as true, 2.0, Infinity and -1."""
    if not isinstance(values, list) or len(values) > MOST_AXES:
        raise ValueError(values)
    if not all(type(value) is int and 0 <= value <= MOST_EXTENT for value in values):
        raise ValueError(values)
    return tuple(values)
