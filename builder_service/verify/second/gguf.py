"""The tensors of a GGUF once more, by another way than the build's: the `gguf` package reads file and names.

llama.cpp turns neighbours in a head where checkpoints turn halves, and stores a Llama's queries and keys in an order
that suits it: that is undone here head by head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    dequantize,
    get_tensor_name_map,
)

from builder_service.model.model import Model, tensor_shapes

STEP_VALUES = 4 << 20  # float32 values that are held at a time
INTERLEAVED = ("llama", "smollm3", "granite", "arcee")
"""Architectures, in GGUF's terms, whose rows of queries and keys are reordered."""

PLUS_ONE = ("gemma", "gemma2", "gemma3")
"""Those whose norms' scales are 1 more than in a checkpoint."""
_EXPERT = re.compile(r"\.experts\.(\d+)\.")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Numbers:
    """Where a block of a type with minima has its numbers, what they can be, and what a zero point can."""

    start: int
    end: int
    most: int
    largest_zero: int
    block: int = 32

    def filled(self, data: npt.NDArray[np.uint8], kind: GGMLQuantizationType, byte: int) -> npt.NDArray[np.float64]:
        """A weight of every block if all bytes of numbers were `byte`, [rows, blocks]."""
        raw = data.reshape(len(data), -1, GGML_QUANT_SIZES[kind][1]).copy()
        raw[..., self.start : self.end] = byte
        return np.asarray(dequantize(raw.reshape(data.shape), kind)[:, :: self.block], np.float64)


CORRECTED = {
    "Q4_1": Numbers(4, 20, 15, 15),
    "Q5_1": Numbers(4, 24, 31, 31),
    "Q2_K": Numbers(16, 80, 3, 15, 16),
    "Q4_K": Numbers(16, 144, 15, 15),
    "Q5_K": Numbers(16, 176, 31, 31),
}


class SecondGguf:
    """`Tensors` of `model` from GGUF `files`, which the build has found to be whole."""

    def __init__(self, files: Sequence[Path], model: Model) -> None:
        readers = [GGUFReader(file) for file in files]
        self._stored: dict[str, Any] = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
        self._architecture = str(readers[0].fields["general.architecture"].contents())
        known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self._architecture)
        self._names = get_tensor_name_map(MODEL_ARCH(known), model.architecture.layers)
        self._model = model
        self._shapes = tensor_shapes(model)
        self.names = tuple(self._shapes)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self._shapes[name])

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows as float32, in order, a bounded block at a time."""
        for data, kind in self._parts(name):
            values = self._in_order(name, dequantize(data, kind).astype(np.float32))
            values -= np.float32(self._architecture in PLUS_ONE and "norm" in name)
            yield values.reshape(-1, *self._shapes[name][1:])

    def shared(self, name: str) -> Iterator[FloatArray]:
        """For each block of `blocks`, [rows, blocks of inputs]: a minimum less the nearest multiple of the scale.

        Both are read off what the package makes of blocks whose numbers are all 0, and all as large as can be.
        """
        for data, kind in self._parts(name):
            numbers = CORRECTED[kind.name]
            lowest, highest = (numbers.filled(data, kind, byte) for byte in (0, 255))
            scale = (highest - lowest) / numbers.most
            multiple = np.divide(-lowest, scale, out=np.zeros_like(scale), where=scale != 0)
            rest = lowest + scale * np.clip(np.rint(multiple), 0, numbers.largest_zero)
            yield self._in_order(name, rest.astype(np.float32))

    def order(self, name: str) -> npt.NDArray[np.int64]:
        """Inputs stand in their own order."""
        return np.arange(self._shapes[name][-1])

    def _parts(self, name: str) -> Iterator[tuple[Any, GGMLQuantizationType]]:
        """Stored rows, some at a time, and their type."""
        piece = self._model.names.piece(self._model.architecture, name)
        expert = _EXPERT.search(piece.tensor)
        together = _EXPERT.sub(".experts.", piece.tensor)  # of all experts one tensor
        stored = self._stored[self._names.get_name(together, try_suffixes=(".weight", ".bias"))]
        data = stored.data[int(expert[1])] if expert else stored.data
        data = data.reshape(-1, 1) if data.ndim == 1 else data
        inputs = int(stored.shape[0]) if data.ndim > 1 and data.shape[1] > 1 else 1
        step = self._model.architecture.head_dim if self._turned(name) else max(1, STEP_VALUES // inputs)
        for rows in piece.rows or (range(len(data)),):
            for start in range(rows.start, rows.stop, step):
                yield data[start : min(start + step, rows.stop)], stored.tensor_type

    def _turned(self, name: str) -> bool:
        return self._architecture in INTERLEAVED and (".q_proj." in name or ".k_proj." in name)

    def _in_order(self, name: str, values: FloatArray) -> FloatArray:
        """Rows of one head: first all even ones, then all odd ones."""
        return np.concatenate([values[::2], values[1::2]]) if self._turned(name) else values
