"""Where each method keeps a matrix: the tensors that it is in, their shapes, and its numbers in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.packed.numbers import Bytes, Words, in_awq_order, in_first_axis, in_last_axis
from builder_service.checkpoint.packed.packing import CONFIG_FIELD, Method, Packing
from builder_service.checkpoint.safetensors import STORAGE, SafetensorsFiles

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """One matrix of a checkpoint, [outputs, inputs], in several tensors that begin with the name of its module."""

    files: SafetensorsFiles
    module: str
    packing: Packing

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs, by the headers."""
        per_word = 32 // self.packing.bits
        words = self.files.header(self._name("values"))[1]
        if len(words) != 2:
            raise self.wrong("values", f"has shape {list(words)}; two axes are needed")
        match self.packing.method:
            case Method.AWQ:
                return words[1] * per_word, words[0]
            case Method.GPTQ:
                return words[1], words[0] * per_word
            case Method.COMPRESSED_TENSORS:
                if self._has("shape"):
                    given = self._whole("shape").reshape(-1).tolist()
                    if len(given) == 2 and given[0] == words[0] and -(-given[1] // per_word) == words[1]:
                        return given[0], given[1]
                    raise self.wrong("shape", f"says {given}, and the numbers are packed in {list(words)}")
                return words[0], words[1] * per_word

    def check(self, shape: tuple[int, int]) -> None:
        """Raise InvalidArgument (CHECKPOINT_INVALID) unless every tensor is there as `shape` and packing want it."""
        outputs, inputs = shape
        groups, per_word = self._groups(inputs), 32 // self.packing.bits
        across, along, few = -(-outputs // per_word), -(-inputs // per_word), groups
        match self.packing.method:
            case Method.AWQ:
                wanted = {"values": (inputs, across), "zeros": (few, across), "scales": (few, outputs)}
            case Method.GPTQ:
                wanted = {"values": (along, outputs), "zeros": (few, across), "scales": (few, outputs)}
            case Method.COMPRESSED_TENSORS:
                wanted = {"values": (outputs, along), "scales": (outputs, few)}
                if not self.packing.symmetric:
                    wanted |= {"zeros": (across, few)}
        for part, needed in wanted.items():
            self._check_part(part, needed)

    def scales(self) -> FloatArray:
        """[outputs, groups]."""
        stored = self.files.tensor(self._name("scales"))
        if self.packing.method is not Method.COMPRESSED_TENSORS:
            return np.ascontiguousarray(stored.T)
        outputs, inputs = self.shape
        return np.ascontiguousarray(np.broadcast_to(stored, (outputs, self._groups(inputs))))

    def zeros(self) -> npt.NDArray[np.uint8]:
        """[outputs, groups]. Raises InvalidArgument (CHECKPOINT_INVALID) where it is not said what they are."""
        (outputs, inputs), packing = self.shape, self.packing
        groups = self._groups(inputs)
        match packing.method:
            case Method.AWQ:
                return in_awq_order(self._whole("zeros"))[:, :outputs].T
            case Method.GPTQ:
                return self._gptq_zeros(in_last_axis(self._whole("zeros"), packing.bits)[:, :outputs].T)
            case Method.COMPRESSED_TENSORS:
                if packing.symmetric:
                    return np.full((outputs, groups), packing.middle, np.uint8)
                return in_first_axis(self._whole("zeros"), packing.bits).T[:outputs]

    def values(self) -> Callable[[int, int], Bytes]:
        """A function that gives the numbers of outputs from one to another, [outputs, inputs]."""
        words, bits = self._whole("values"), self.packing.bits
        inputs, per_word = self.shape[1], 32 // bits
        match self.packing.method:
            case Method.AWQ:

                def read(start: int, stop: int) -> Bytes:
                    first = start // per_word
                    columns = in_awq_order(words[:, first : -(-stop // per_word)])
                    return columns[:, start - first * per_word : stop - first * per_word].T
            case Method.GPTQ:

                def read(start: int, stop: int) -> Bytes:
                    return in_first_axis(words[:, start:stop], bits)[:, :inputs]
            case Method.COMPRESSED_TENSORS:

                def read(start: int, stop: int) -> Bytes:
                    return in_last_axis(words[start:stop], bits)[:, :inputs]

        return read

    def groups(self) -> npt.NDArray[np.int64]:
        """The group of each input."""
        inputs = self.shape[1]
        in_order = np.arange(inputs) // (self.packing.group or inputs)
        if not self._has("groups"):
            return in_order
        found = self._whole("groups").astype(np.int64).reshape(-1)
        if not len(found) or (found < 0).all():  # what is written where nothing is out of order
            return in_order
        if len(found) != inputs or found.min() < 0 or found.max() >= self._groups(inputs):
            raise self.wrong("groups", f"has to give one of {self._groups(inputs)} groups to each of {inputs} inputs")
        return found

    def wrong(self, part: str, why: str) -> Exception:
        """The error for a part that is not what it should be."""
        name = self._name(part)
        file = self.files.header(name)[2] if self._has(part) else ""
        return invalid(f"tensor {name}{f' in {file}' if file else ''} {why}", file=file, tensor=name)

    def _gptq_zeros(self, stored: Bytes) -> Bytes:
        """In the first version of the format a 0 became the largest number, which others read as 16 or 256."""
        packing, most = self.packing, (1 << self.packing.bits) - 1
        if packing.symmetric:  # some files say the first version and hold the second's
            allowed = {packing.middle, packing.middle - packing.less_one}
            if not set(np.unique(stored).tolist()) <= allowed:
                raise self.wrong("zeros", f"is not the same everywhere, and {CONFIG_FIELD}.sym says that it is")
            return np.full(stored.shape, packing.middle, np.uint8)
        if packing.less_one and (stored == most).any():
            message = f"holds {most}, which is 0 to one reader and {most + 1} to another; save the checkpoint with "
            raise self.wrong("zeros", f"{message}{CONFIG_FIELD}.checkpoint_format gptq_v2")
        return stored + np.uint8(packing.less_one)

    def _check_part(self, part: str, wanted: Shape) -> None:
        if not self._has(part):
            says = f"; {CONFIG_FIELD} says that it is not symmetric" if part == "zeros" else ""
            raise self.wrong(part, f"is missing{says}")
        dtype, shape, _ = self.files.header(self._name(part))
        known = tuple(STORAGE) if part == "scales" else ("I32",)
        if dtype not in known:
            raise self.wrong(part, f"is {dtype}; {', '.join(known)} can be read")
        ways = {wanted, (1,), (wanted[0], 1)} if part == "scales" and wanted[1] == 1 else {wanted}
        if shape not in ways:
            asked = f"config.json with {CONFIG_FIELD} asks for {list(wanted)}"
            raise self.wrong(part, f"has shape {list(shape)}; {asked}")

    def _groups(self, inputs: int) -> int:
        return -(-inputs // self.packing.group) if self.packing.group else 1

    def _name(self, part: str) -> str:
        return f"{self.module}.{PARTS[self.packing.method][part]}"

    def _has(self, part: str) -> bool:
        return part in PARTS[self.packing.method] and self._name(part) in self.files.all_names

    def _whole(self, part: str) -> Words:
        return self.files.whole_numbers(self._name(part))


PARTS: Mapping[Method, Mapping[str, str]] = {
    Method.AWQ: {"values": "qweight", "zeros": "qzeros", "scales": "scales"},
    Method.GPTQ: {"values": "qweight", "zeros": "qzeros", "scales": "scales", "groups": "g_idx"},
    Method.COMPRESSED_TENSORS: {
        "values": "weight_packed",
        "zeros": "weight_zero_point",
        "scales": "weight_scale",
        "groups": "weight_g_idx",
        "shape": "weight_shape",
    },
}
"""What the tensors of a module are called behind its name."""
