"""A Hugging Face checkpoint folder: its config and its tensors, read a few rows at a time.

Knows the safetensors layout (8 bytes of header length, a JSON header, raw little-endian data) and the index of a
sharded checkpoint. Knows nothing of architectures. Only safetensors is read: the older formats run code.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.files import FIELD, invalid, parse_json, present, read_json
from common.errors import NotFound, Reason, SinkServeError

FloatArray = npt.NDArray[np.float32]

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
QUANTIZATION_CONFIG = "hf_quant_config.json"  # of weights that NVIDIA's ModelOpt has quantized
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCK_BYTES = 16 << 20  # of float32, the most that `blocks` holds at a time
LONGEST_HEADER = 100_000_000  # the limit of the reference implementation
MOST_EXTENT = 2**53  # as far as other readers of JSON count exactly
MOST_AXES = 32  # of a numpy array
_CONVERT = (
    'python -c "import glob, torch, safetensors.torch; weights = {}; '
    "[weights.update(torch.load(file, map_location='cpu', weights_only=True)) "
    "for file in sorted(glob.glob('pytorch_model*.bin'))]; "
    "safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, "
    f"'{SINGLE}', {{'format': 'pt'}})\""
)
"""Tensors that share memory are stored once for each name; neither is code run nor transformers needed."""
STORAGE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize


class Tensors(Protocol):
    """What weights are made from: tensors by name, as float32."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor."""

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows, in order, a bounded block at a time."""


class Checkpoint:
    """A folder with config.json and safetensors, checked when opened; tensors are read when asked for.

    Raises NotFound (SOURCE_NOT_FOUND) for a folder or a file that is not there, and InvalidArgument
    (CHECKPOINT_INVALID) for one that is not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises for names that cannot be
            raise NotFound(Reason.SOURCE_NOT_FOUND, f"no checkpoint folder at {folder}", field=FIELD, folder=folder)
        self.folder = folder
        self.config = read_json(folder / CONFIG)
        self.generation_config = read_json(path) if present(path := folder / GENERATION_CONFIG) else {}
        self.weight_files = _weight_files(folder)
        self._tensors = _locate(folder, self.weight_files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._tensors))

    def files(self) -> tuple[Path, ...]:
        """The files that weights and shapes are read from, config first."""
        index = (path,) if present(path := self.folder / INDEX) else ()
        others = [path for name in (GENERATION_CONFIG, QUANTIZATION_CONFIG) if present(path := self.folder / name)]
        return (self.folder / CONFIG, *others, *index, *self.weight_files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._entry(name).shape

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`."""
        entry = self._entry(name)
        if entry.shape != shape:
            found, wanted = list(entry.shape), list(shape)
            message = f"tensor {name} in {entry.file.name} has shape {found}; {CONFIG} asks for {wanted}"
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
        if name not in self._tensors:
            files = ", ".join(path.name for path in self.weight_files)
            raise invalid(f"tensor {name} is missing from {files}", file=files, tensor=name)
        entry = self._tensors[name]
        if entry.dtype not in STORAGE:
            message = f"tensor {name} in {entry.file.name} is {entry.dtype}; {', '.join(STORAGE)} are read"
            raise invalid(message, file=entry.file.name, tensor=name, dtype=entry.dtype)
        return entry


def _rows(entry: TensorEntry) -> int:
    return entry.shape[0] if entry.shape else 1


def _read(entry: TensorEntry, name: str, start: int, count: int) -> FloatArray:
    """`count` rows from row `start`, as finite float32."""
    dtype = np.dtype(STORAGE[entry.dtype])
    row = math.prod(entry.shape[1:])
    raw = np.fromfile(entry.file, dtype, count * row, offset=entry.offset + start * row * dtype.itemsize)
    if raw.size != count * row:
        raise invalid(f"{entry.file.name} ends inside tensor {name}", file=entry.file.name, tensor=name)
    values = _to_float32(raw, entry.dtype).reshape(count, *entry.shape[1:])
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        raise invalid(f"tensor {name} in {entry.file.name} is not finite", file=entry.file.name, tensor=name)
    return values


def _to_float32(raw: npt.NDArray[Any], dtype: str) -> FloatArray:
    if dtype == "BF16":  # the upper half of a float32
        widened = raw.astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
    with np.errstate(over="ignore"):  # too large a float64 is refused with what is not finite
        return raw.astype(np.float32, copy=False)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that hold the tensors: one, or the shards of an index."""
    if present(folder / INDEX):
        return tuple(_existing(folder, name) for name in shard_names(folder))
    if present(folder / SINGLE):
        return (folder / SINGLE,)
    raise no_weights(str(folder), (path.name for path in folder.glob("*.bin")), f"cd {shlex.quote(str(folder))}")


def shard_names(folder: Path) -> tuple[str, ...]:
    """Names of the files that the index of a sharded checkpoint names, sorted.

    Raises InvalidArgument (CHECKPOINT_INVALID) for an index that is none, or that names what is outside its folder.
    """
    names = sorted(set(_weight_map(folder).values()))
    for name in names:
        if Path(name).name != name:
            raise invalid(f"{INDEX} names {name!r}, which is not a file of this folder", file=INDEX)
    return tuple(names)


def no_weights(where: str, names: Iterable[str], get_there: str) -> SinkServeError:
    """The error for a checkpoint without safetensors that has files of these `names`.

    `get_there` is the command that leads into a folder with them; the message goes on with what converts them.
    """
    if pickled := sorted(name for name in names if name.endswith(".bin")):
        message = f"{where} holds {', '.join(pickled)}; only safetensors is read, since older formats run code"
        return invalid(
            f"{message}; this converts them, with torch and safetensors: {get_there} && {_CONVERT}", file=pickled[0]
        )
    return NotFound(Reason.SOURCE_NOT_FOUND, f"{where} has neither {SINGLE} nor {INDEX}", field=FIELD, file=SINGLE)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not present(path):
        raise NotFound(
            Reason.SOURCE_NOT_FOUND, f"{INDEX} names {name}, which is not in {folder}", field=FIELD, file=name
        )
    return path


def _weight_map(folder: Path) -> Mapping[str, str]:
    mapping = read_json(folder / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise invalid(f"{INDEX} has no weight_map from tensors to files", file=INDEX)
    return mapping


def _locate(folder: Path, files: tuple[Path, ...]) -> dict[str, TensorEntry]:
    found: dict[str, TensorEntry] = {}
    for file in files:
        found |= _read_header(file)
    if present(folder / INDEX):
        for name, file_name in _weight_map(folder).items():
            if name not in found:
                message = f"{INDEX} says that tensor {name} is in {file_name}, and it is not"
                raise invalid(message, file=file_name, tensor=name)
    return found


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
    if entry.dtype not in STORAGE:
        return entry  # refused when somebody asks for it; what nobody needs may be anything
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
