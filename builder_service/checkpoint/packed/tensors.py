"""The tensors of a packed checkpoint by the names that they had before: in blocks as they are stored, or as float32."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray, PackedRows
from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.packed.layouts import PARTS, Packed
from builder_service.checkpoint.packed.numbers import to_bytes
from builder_service.checkpoint.packed.packing import CONFIG_FIELD, Packing
from builder_service.checkpoint.safetensors import SafetensorsFiles

BLOCK_BYTES = 16 << 20  # of float32, the most that `blocks` holds at a time
LEAST_BLOCK, MOST_BLOCK = 16, 128  # inputs that an engine multiplies by one scale
_WEIGHT = ".weight"


class PackedTensors:
    """`StoredTensors` and `BlockTensors`; what is packed and what is not is said by the names in the files.

    Methods raise InvalidArgument (CHECKPOINT_INVALID).
    """

    def __init__(self, files: SafetensorsFiles, packing: Packing) -> None:
        self._files = files
        self._packing = packing
        parts = PARTS[packing.method]
        ends = tuple(f".{part}" for part in parts.values())
        mark = f".{parts['values']}"
        self._packed = {
            name.removesuffix(mark) + _WEIGHT: Packed(files, name.removesuffix(mark), packing)
            for name in files.names
            if name.endswith(mark)
        }
        hidden = {name for name in files.names if name.endswith(ends) and _owner(name) in self._packed}
        self.names: tuple[str, ...] = tuple(sorted({*files.names, *self._packed} - hidden))
        self._check_names()
        self.block_format = cache(self._block_format)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, [outputs, inputs] where it is packed."""
        return self._packed[name].shape if name in self._packed else self._files.shape(name)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`, packed as config.json says or not at all."""
        if name not in self._packed:
            self._files.require(name, shape)
        elif len(shape) != 2:
            raise self._packed[name].wrong("values", f"is there, and config.json asks for shape {list(shape)}")
        else:
            self._packed[name].check((shape[0], shape[1]))

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))) if name in self._packed else self._files.tensor(name)

    def blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[FloatArray]:
        """The tensor's rows, or those in `rows`, as float32, in blocks of at most BLOCK_BYTES (but at least a row)."""
        if name not in self._packed:
            yield from self._files.blocks(name, rows)
            return
        packed = self._packed[name]
        scales, zeros, groups = packed.scales(), packed.zeros(), packed.groups()
        for part, values in _in_steps(packed, rows):
            weights = values.astype(np.float32) - zeros[part][:, groups]
            weights *= scales[part][:, groups]
            yield weights

    def packed(self, name: str, rows: Sequence[range] = ()) -> Iterator[PackedRows]:
        """The rows of a matrix that has a format, or those in `rows`, a bounded block at a time."""
        packed, found = self._packed[name], self._block_format(name)
        assert found is not None, name
        order, groups = _order(packed.groups())
        first = groups[:: found.block]  # each block's group
        scales = np.ascontiguousarray(packed.scales()[:, first])
        zeros = np.ascontiguousarray(packed.zeros()[:, first])
        for part, values in _in_steps(packed, rows):
            held = np.ascontiguousarray(values if order is None else values[:, order])
            held = held.reshape(len(values), -1, found.block)
            yield PackedRows(
                to_bytes(held, found.bits, 0),
                scales[part],
                to_bytes(zeros[part], found.bits, self._packing.middle),
                rest=None,
                order=order,
            )

    def _block_format(self, name: str) -> BlockFormat | None:
        """How a matrix can be held as it is; None: as float32."""
        if name not in self._packed:
            return None
        packed = self._packed[name]
        inputs = packed.shape[1]
        if self._packing.less_one:
            packed.zeros()
        common = math.gcd(inputs, self._packing.group or inputs)
        block = min(MOST_BLOCK, common & -common)
        if block < LEAST_BLOCK:
            raise _not_kept(packed, f"has {inputs} inputs in groups of {self._packing.group or inputs}", "group_size")
        order, groups = _order(packed.groups())
        if (groups.reshape(-1, block) != groups[::block, None]).any():
            raise _not_kept(packed, "has groups of unequal size", "desc_act")
        digest = "" if order is None else hashlib.sha256(order.tobytes()).hexdigest()[:16]
        return BlockFormat(self._packing.bits, block, order=digest)

    def _check_names(self) -> None:
        """Raise for a matrix that is there twice, or packed against what config.json says."""
        for name, packed in self._packed.items():
            if name in self._files.all_names:
                raise packed.wrong("values", f"is there, and so is {name}")
            if packed.module in self._packing.left_out:
                raise packed.wrong("values", f"is there, and {CONFIG_FIELD} lists {packed.module} as not quantized")


def _owner(part: str) -> str:
    return part.rpartition(".")[0] + _WEIGHT


def _in_steps(packed: Packed, rows: Sequence[range]) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
    """Some outputs at a time, and their numbers."""
    (outputs, inputs), read = packed.shape, packed.values()
    step = max(1, BLOCK_BYTES // max(4 * inputs, 1))
    for part in rows or (range(outputs),):
        for start in range(part.start, part.stop, step):
            stop = min(start + step, part.stop)
            yield slice(start, stop), read(start, stop)


def _order(groups: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
    """The order in which inputs of one group stand together, None if they do, and their groups in it."""
    order = np.argsort(groups, kind="stable")
    return (None if (order[1:] > order[:-1]).all() else order), groups[order]


def _not_kept(packed: Packed, why: str, name: str) -> Exception:
    message = f"{packed.module} {why} ({CONFIG_FIELD}.{name}), which cannot be kept: equal groups of a multiple of "
    message += f"{LEAST_BLOCK} inputs can; build with precision fp32, int8 or int4"
    return invalid(message, file="", tensor=packed.module + _WEIGHT)
