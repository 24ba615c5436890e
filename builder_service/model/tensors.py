"""The tensors of a model by Llama's names, read from a checkpoint of any family."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from builder_service.checkpoint.checkpoint import BlockFormat, BlockTensors, FloatArray, PackedRows, StoredTensors
from builder_service.model.model import EMBEDDING, EXPERTS, Model, tensor_shapes
from builder_service.model.weight_format import WeightFormat
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import ModelSpec, Precision

COMPUTED = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")  # stored by some, and computed anew


class ModelTensors:
    """Reads what `model` needs; see `StoredTensors` for what is raised."""

    def __init__(self, stored: StoredTensors, model: Model) -> None:
        self._stored = stored
        self._model = model
        self._shapes = tensor_shapes(model)
        self.names = tuple(self._shapes)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self._shapes[name])

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """The tensor's rows as float32, in order, a bounded block at a time."""
        piece = self._model.names.piece(self._model.architecture, name)
        return self._stored.blocks(piece.tensor, piece.rows)

    def packed(self, name: str) -> Iterator[PackedRows]:
        """The rows of a matrix that is kept as it is stored, in order, a bounded block at a time."""
        assert isinstance(self._stored, BlockTensors), name
        piece = self._model.names.piece(self._model.architecture, name)
        return self._stored.packed(piece.tensor, piece.rows)

    def weight_format(self, spec: ModelSpec) -> WeightFormat:
        """The format that a spec asks for. Raises InvalidArgument: INVALID_SPEC if there is nothing to keep,
        CHECKPOINT_INVALID for what cannot be.
        """
        if spec.precision is not Precision.KEEP:
            return WeightFormat.from_spec(spec)
        if not isinstance(self._stored, BlockTensors):
            message = "spec.precision: keep is for checkpoints whose weights are quantized; fp32 is exact here"
            raise InvalidArgument(Reason.INVALID_SPEC, message, field="spec.precision")
        kept = dict(self._kept(self._stored))
        sizes = {name: math.prod(shape) for name, shape in self._shapes.items()}
        size_bytes = sum(size * (kept[name].bytes_each if name in kept else 4) for name, size in sizes.items())
        each = size_bytes / sum(sizes.values())
        return replace(WeightFormat.from_spec(spec), kept=kept, kept_bytes_each=each)

    def _kept(self, stored: BlockTensors) -> Iterator[tuple[str, BlockFormat]]:
        """Matrices and their formats; experts are float32, and an embedding is if its columns are not in order."""
        for name, shape in self._shapes.items():
            if len(shape) != 2 or f".{EXPERTS}." in name:
                continue
            found = stored.block_format(self._model.names.piece(self._model.architecture, name).tensor)
            if found and not (found.order and name == EMBEDDING):
                yield name, found

    def check(self) -> None:
        """Raise InvalidArgument (CHECKPOINT_INVALID) for a tensor that is missing, has another shape, or is unknown.

        A tensor of a layer that config.json does not mention (a bias, a norm of queries) would change the maths.
        """
        wanted = source_shapes(self._model)
        for name, shape in wanted.items():
            self._stored.require(name, shape)
        for name in self._stored.names:
            if name.startswith(f"{self._model.names.layer}.") and name not in wanted and not name.endswith(COMPUTED):
                message = f"the checkpoint has a tensor {name}, which a model as in config.json does not have"
                raise InvalidArgument(Reason.CHECKPOINT_INVALID, message, field="spec.source.uri", tensor=name)


def source_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Tensors of the checkpoint, whole, with their shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in tensor_shapes(model).items():
        piece = model.names.piece(model.architecture, name)
        rows = found.get(piece.tensor, (0,))[0] + shape[0]
        found[piece.tensor] = (rows, *shape[1:])
    return found
