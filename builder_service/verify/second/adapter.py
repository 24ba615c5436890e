"""A model's tensors with an adapter merged, once more, by another way than the build's: in float64, from the format's
own library, with ranks and factors read from adapter_config.json again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from builder_service.checkpoint.checkpoint import FloatArray, Tensors
from builder_service.model.model import Model, tensor_shapes

_FRONT = re.compile(r"^(?:(?:base_model|model|language_model|transformer)\.)*")
_BETWEEN = re.compile(r"\.(?:base_layer|modules_to_save|default)(?=\.)")

Array = npt.NDArray[np.float64]


class SecondAdapter:
    """`Tensors` of `model`: those of `base`, with the adapter in `folder`, which the build has found to fit."""

    def __init__(self, base: Tensors, folder: Path, model: Model) -> None:
        self._base = base
        self._model = model
        self._shapes = tensor_shapes(model)
        self._said: dict[str, Any] = json.loads((folder / "adapter_config.json").read_bytes())
        self._file = folder / "adapter_model.safetensors"
        with safe_open(self._file, "numpy") as file:
            self._keys = {_BETWEEN.sub("", _FRONT.sub("", key)): key for key in file.keys()}  # noqa: SIM118 - no mapping
        self.names = base.names

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self._shapes[name])

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows as float32, in order, a bounded block at a time."""
        piece = self._model.names.piece(self._model.architecture, name)
        tensor = _FRONT.sub("", piece.tensor)
        rows = [row for part in piece.rows for row in part] or range(self._shapes[name][0])
        end = 0
        for block in self._base.blocks(name):
            start, end = end, end + len(block)
            yield self._merged(tensor, np.array(rows[start:end]), block.astype(np.float64)).astype(np.float32)

    def _merged(self, tensor: str, rows: npt.NDArray[np.int64], block: Array) -> Array:
        """Some rows of a tensor of the checkpoint."""
        module = tensor.removesuffix(".weight")
        if tensor in self._keys:
            block = self._read(tensor)[rows]
        if f"{module}.lora_A.weight" in self._keys:
            down, up = self._read(f"{module}.lora_A.weight"), self._read(f"{module}.lora_B.weight")
            block = block + self._factor(module, len(down)) * np.einsum("or,ri->oi", up[rows], down)
        if f"{module}.lora_embedding_A" in self._keys:
            down, up = self._read(f"{module}.lora_embedding_A"), self._read(f"{module}.lora_embedding_B")
            block = block + self._factor(module, len(down)) * np.einsum("rt,wr->tw", down[:, rows], up)
        if lengths := [key for key in self._keys if key.startswith(f"{module}.lora_magnitude_vector")]:
            wanted = self._read(lengths[0]).reshape(-1)[rows, None]
            block = block * wanted / np.sqrt((block * block).sum(axis=1, keepdims=True))
        return block

    def _factor(self, module: str, rank: int) -> float:
        """Alpha by the rank, or by its root."""
        key = next(self._keys[name] for name in self._keys if name.startswith(f"{module}.lora_"))
        where = key.removeprefix("base_model.model.").partition(".lora_")[0]
        alpha = self._said.get("lora_alpha", 8)
        for pattern, other in (self._said.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", where):
                alpha = other
                break
        return float(alpha) / float(rank**0.5 if self._said.get("use_rslora") else rank)

    def _read(self, name: str) -> Array:
        with safe_open(self._file, "numpy") as file:
            return np.asarray(file.get_tensor(self._keys[name])).astype(np.float64)
