"""What a build reads of a model: one value, which a reader of folders, or of another kind of source, fills.

RESOLVE opens it and the later stages pass it on. Its parts are read when they are first asked for, and once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.tokenizer import TokenizerDescription

DEFAULT_TEMPLATE = "default"

FloatArray = npt.NDArray[np.float32]


class Tensors(Protocol):
    """What weights are made from: tensors by name, as float32."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor."""

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows, in order, a bounded block at a time."""


class StoredTensors(Protocol):
    """The tensors of a checkpoint, by its own names. Methods raise InvalidArgument (CHECKPOINT_INVALID)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`."""

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""

    def blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[FloatArray]:
        """The tensor's rows, or those in `rows`, as float32, a bounded block at a time."""


@dataclass(frozen=True)
class BlockFormat:
    """How quantized rows of a matrix are held as they are stored: a scale and a zero point for each block of inputs."""

    bits: int
    """Of a value: 4 or 8."""
    block: int
    """Inputs."""
    corrected: bool = False
    """Whether every input of a block is also multiplied by a number of that block."""
    order: str = ""
    """Which order the inputs have to stand in, as a digest of it; empty: their own."""
    short_scales: bool = False
    """Whether scales are bfloat16, in the file; float32 in memory in any case."""
    on_gpu: bool = False
    """Whether all zero points are the middle of the range, and a weight is rounded to bfloat16 when it is used."""
    floating: bool = False
    """Whether values are float8 (e4m3), on a GPU alone; else they are whole numbers."""

    @property
    def bytes_each(self) -> float:
        """Bytes of a weight with its share of the block's numbers."""
        numbers = (8 if self.corrected else 4) - (2 if self.short_scales else 0)
        zero = 0 if self.on_gpu else self.bits / 8
        return self.bits / 8 + (numbers + zero) / self.block


@dataclass(frozen=True)
class PackedRows:
    """Rows in a `BlockFormat`; a weight is `(value - zero) * scale`, and where they are corrected `+ rest`."""

    values: npt.NDArray[np.uint8]
    """[rows, blocks, block * bits / 8]; of 4 bits, the earlier value is in the low half of a byte."""
    scales: FloatArray
    """[rows, blocks]."""
    zeros: npt.NDArray[np.uint8]
    """[rows, blocks * bits / 8 rounded up], packed likewise."""
    rest: FloatArray | None
    """[rows, blocks]."""
    order: npt.NDArray[np.int64] | None = None
    """[inputs]: which input is the first of the first block, and so on; None: they stand in their own order."""
    read_scale: float = 1.0
    """Of what a matrix in float8 multiplies, which is in float8 too."""


@runtime_checkable
class BlockTensors(Protocol):
    """Tensors that may be quantized, in blocks; besides what `StoredTensors` has."""

    def block_format(self, name: str) -> BlockFormat | None:
        """How a matrix can be held as it is; None: as float32. Raises InvalidArgument (CHECKPOINT_INVALID) for a
        quantized one that cannot.
        """

    def packed(self, name: str, rows: Sequence[range] = ()) -> Iterator[PackedRows]:
        """The rows of a matrix that has a format, or those in `rows`, a bounded block at a time."""


@runtime_checkable
class KeptTensors(Protocol):
    """What kept weights are made from; besides what `Tensors` has."""

    def packed(self, name: str) -> Iterator[PackedRows]:
        """The rows of a matrix that is kept as it is stored, in order, a bounded block at a time."""


class Checkpoint(Protocol):
    """One model as it is published. Reading a part raises NotFound (SOURCE_NOT_FOUND) or InvalidArgument
    (CHECKPOINT_INVALID), naming the file.
    """

    @property
    def config(self) -> dict[str, Any]:
        """The model's architecture, in the terms of config.json."""

    @property
    def generation_config(self) -> dict[str, Any]:
        """Defaults for sampling, in the terms of generation_config.json; empty if there are none."""

    @property
    def tokenizer(self) -> TokenizerDescription | None:
        """None if the checkpoint has no tokenizer that can be read."""

    @property
    def unread_tokenizer(self) -> str:
        """Where `tokenizer` is None: the file of a tokenizer that cannot be read; empty if there is none."""

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """The checkpoint's own chat templates, in Jinja, by name; the one that is used is called DEFAULT_TEMPLATE."""

    @property
    def tensors(self) -> StoredTensors:
        """The weights."""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that an engine is made from; their digests are part of the build key."""
