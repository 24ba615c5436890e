"""The tensors of a packed checkpoint once more, by another way than the build's: numbers are shifted out of words.

Bits, groups and the kind of zero points are read from config.json again, and every matrix is unpacked whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from builder_service.model.model import Model
from builder_service.verify.second.reading import SINGLE, FloatArray, SecondReading

STEP_VALUES = 4 << 20  # float32 values that are held at a time
_AWQ_SHIFTS = tuple(4 * place for place in (0, 4, 1, 5, 2, 6, 3, 7))  # of the columns of a word, in their order
_MARKS = ("qweight", "weight_packed")

Numbers = npt.NDArray[np.int16]


class SecondPacked(SecondReading):
    """`SharedParts` of `model` from the checkpoint in `folder`, whose matrices are packed or not."""

    def __init__(self, folder: Path, model: Model) -> None:
        super().__init__(folder, model)
        said: dict[str, Any] = json.loads((folder / "config.json").read_bytes())["quantization_config"]
        self._method = said["quant_method"]
        if self._method == "compressed-tensors":
            said = next(iter(said["config_groups"].values()))["weights"]
        self._bits = int(said.get("num_bits") or said.get("bits") or 4)
        size = said.get("group_size", None if self._method == "compressed-tensors" else 128)
        self._group = size if size and size > 0 else 0
        self._middle = bool(said.get("symmetric", said.get("sym", True))) and self._method != "awq"
        self._add = int(said.get("checkpoint_format", said.get("format", "gptq")) == "gptq")

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows as float32, in order, some at a time."""
        piece = self._model.names.piece(self._model.architecture, name)
        module = piece.tensor.removesuffix(".weight")
        if not self._packed(module):
            yield from super().blocks(name)
            return
        numbers, scales, zeros = self._numbers(module), self._scales(module), self._zeros(module)
        groups = self._groups(module, numbers.shape[1])
        step = max(1, STEP_VALUES // numbers.shape[1])
        for rows in piece.rows or (range(len(numbers)),):
            for start in range(rows.start, rows.stop, step):
                part = slice(start, min(start + step, rows.stop))
                wide = numbers[part] - zeros[part][:, groups]
                yield wide.astype(np.float32) * scales[part][:, groups]

    def shared(self, name: str) -> Iterator[FloatArray]:
        """Zero points are whole numbers: nothing is left."""
        raise AssertionError(name)

    def order(self, name: str) -> npt.NDArray[np.int64]:
        """Inputs by their groups, those of one group by their own order."""
        piece = self._model.names.piece(self._model.architecture, name)
        groups = self._groups(piece.tensor.removesuffix(".weight"), self._shapes[name][1])
        return np.array(sorted(range(len(groups)), key=groups.tolist().__getitem__))

    def _numbers(self, module: str) -> Numbers:
        """[outputs, inputs]."""
        if self._method == "awq":
            return self._shifted(self._read(f"{module}.qweight"), _AWQ_SHIFTS).T
        if self._method == "gptq":
            return self._shifted(self._read(f"{module}.qweight").T, self._shifts)
        outputs, inputs = self._read(f"{module}.weight_shape").reshape(-1).tolist()
        return self._shifted(self._read(f"{module}.weight_packed"), self._shifts)[:outputs, :inputs]

    def _scales(self, module: str) -> FloatArray:
        """[outputs, groups]."""
        if self._method != "compressed-tensors":
            return self._read(f"{module}.scales").T.astype(np.float32)
        scales = self._read(f"{module}.weight_scale").astype(np.float32)
        return scales if scales.ndim == 2 else np.full((len(self._numbers(module)), 1), scales[0])

    def _zeros(self, module: str) -> Numbers:
        """[outputs, groups]."""
        outputs = self._scales(module).shape
        if self._middle:
            return np.full(outputs, 1 << (self._bits - 1), np.int16)
        if self._method == "awq":
            return self._shifted(self._read(f"{module}.qzeros"), _AWQ_SHIFTS).T
        if self._method == "gptq":
            return self._shifted(self._read(f"{module}.qzeros"), self._shifts).T + np.int16(self._add)
        return self._shifted(self._read(f"{module}.weight_zero_point").T, self._shifts).T[: outputs[0]]

    def _groups(self, module: str, inputs: int) -> npt.NDArray[np.int64]:
        for name in (f"{module}.g_idx", f"{module}.weight_g_idx"):
            if name in self._where and (found := self._read(name)).size and found.max() >= 0:
                return found.astype(np.int64)
        return np.array([at // self._group if self._group else 0 for at in range(inputs)])

    def _shifted(self, words: npt.NDArray[Any], shifts: tuple[int, ...]) -> Numbers:
        """[rows, words] as [rows, numbers]."""
        parts = [(words.astype(np.int64) >> shift & (1 << self._bits) - 1).astype(np.int16) for shift in shifts]
        return np.stack(parts, axis=2).reshape(len(words), -1)

    @property
    def _shifts(self) -> tuple[int, ...]:
        return tuple(range(0, 32, self._bits))

    def _packed(self, module: str) -> bool:
        return any(f"{module}.{mark}" in self._where for mark in _MARKS)

    def _read(self, tensor: str) -> npt.NDArray[Any]:
        with safe_open(self._where[tensor], "numpy") as file:
            return np.asarray(file.get_tensor(tensor))

    @cached_property
    def _where(self) -> dict[str, Path]:
        """The file of each tensor."""
        if self._files:
            return {name: self._folder / file for name, file in self._files.items()}
        with safe_open(self._folder / SINGLE, "numpy") as file:
            return dict.fromkeys(file.keys(), self._folder / SINGLE)
