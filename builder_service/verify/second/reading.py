"""A model's tensors once more, by another way than the build's: what was read wrongly there is seen here.

The format's own library reads the bytes; of a sharded checkpoint the index alone says which file a tensor is in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from builder_service.model.model import Model, tensor_shapes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BLOCK_BYTES = 16 << 20  # of float32, the most that is held at a time

FloatArray = npt.NDArray[np.float32]


class SecondReading:
    """`Tensors` of `model` from the checkpoint in `folder`, which the build has found to be whole."""

    def __init__(self, folder: Path, model: Model) -> None:
        self._folder = folder
        self._model = model
        self._shapes = tensor_shapes(model)
        self._files = _files(folder)
        self.names = tuple(self._shapes)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self._shapes[name])

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows as float32, in order, a bounded block at a time."""
        piece = self._model.names.piece(self._model.architecture, name)
        with safe_open(self._folder / self._files.get(piece.tensor, SINGLE), "numpy") as file:
            stored = file.get_slice(piece.tensor)
            count, *width = stored.get_shape()
            step = max(1, BLOCK_BYTES // max(1, 4 * math.prod(width)))
            for rows in piece.rows or (range(count),):
                for start in range(rows.start, rows.stop, step):
                    yield stored[start : min(start + step, rows.stop)].astype(np.float32)


def _files(folder: Path) -> dict[str, str]:
    """The file of each tensor; none where one file has all."""
    if (folder / SINGLE).exists():
        return {}
    if (folder / INDEX).exists():
        files: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
        return files
    found: dict[str, str] = {}
    for shard in sorted(folder.glob("model-*-of-*.safetensors")):
        with safe_open(shard, "numpy") as file:
            found |= dict.fromkeys(file.keys(), shard.name)
    return found
