"""The tensors of a GGUF once more, by another way than the build's: the `gguf` package reads file and names.

llama.cpp turns neighbours in a head where checkpoints turn halves, and stores a Llama's queries and keys in an order
that suits it: that is undone here head by head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, dequantize, get_tensor_name_map

from builder_service.model.model import Model, tensor_shapes

STEP_VALUES = 4 << 20  # float32 values that are held at a time
INTERLEAVED = ("llama",)
"""Architectures, in GGUF's terms, whose rows of queries and keys are reordered."""

FloatArray = npt.NDArray[np.float32]


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
        piece = self._model.names.piece(self._model.architecture, name)
        stored = self._stored[self._names.get_name(piece.tensor, try_suffixes=(".weight", ".bias"))]
        data = stored.data.reshape(-1, 1) if stored.data.ndim == 1 else stored.data
        for rows in piece.rows or (range(len(data)),):
            for start, stop in self._steps(name, rows, int(stored.shape[0])):
                values = dequantize(data[start:stop], stored.tensor_type).astype(np.float32)
                yield self._in_order(name, values).reshape(stop - start, *self._shapes[name][1:])

    def _steps(self, name: str, rows: range, inputs: int) -> Iterator[tuple[int, int]]:
        step = self._model.architecture.head_dim if self._turned(name) else max(1, STEP_VALUES // inputs)
        return ((start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step))

    def _turned(self, name: str) -> bool:
        return self._architecture in INTERLEAVED and (".q_proj." in name or ".k_proj." in name)

    def _in_order(self, name: str, values: FloatArray) -> FloatArray:
        """Rows of one head: first all even ones, then all odd ones."""
        return np.concatenate([values[::2], values[1::2]]) if self._turned(name) else values
