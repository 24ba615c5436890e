"""The same model in another basis, in which int8 loses less: equal in exact arithmetic, with no number standing out.

* The residual stream is turned by one matrix. It folds into all that writes the stream and all that reads it, and the
  norms' scales fold into what reads behind them, since a root mean square does not change when a row is turned.
* The values of each head likewise, which attention only adds up: it folds into the values and the output projection.
* What `down_proj` reads is turned while the engine runs, by a small matrix; the other half folds into `down_proj`.

A stream whose norms subtract a mean, or stand behind what is added, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from builder_service.checkpoint.checkpoint import FloatArray, Tensors
from builder_service.model.basis import Basis, mixing, mixing_fast
from builder_service.model.model import EMBEDDING, HEAD, LAYER, Model, tensor_shapes
from builder_service.model.weight_format import WeightFormat

LAST_NORM = "model.norm"
_COLUMNS, _ROWS = 256, 256  # of a matrix, at a time
_BEFORE = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}  # the norm before a part
_TURNABLE = frozenset(
    "input_layernorm post_attention_layernorm self_attn.q_norm self_attn.k_norm self_attn.q_proj self_attn.k_proj "  # noqa: SIM905 - a list of words
    "self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj".split()
)
"""All that a layer may have for its stream to be turned."""


def held_tensors(tensors: Tensors, model: Model, weight_format: WeightFormat) -> Tensors:
    """The tensors as an engine holds them, before they are rounded."""
    return TurnedTensors(tensors, model) if weight_format.turned else tensors


def inner_basis(model: Model, weight_format: WeightFormat) -> Basis | None:
    """What the rows that `down_proj` reads are turned by while the engine runs."""
    return mixing_fast(model.architecture.intermediate) if weight_format.turned else None


class TurnedTensors:
    """`Tensors` of `model` in the other basis. The logits have a matrix of their own, even if it was the embedding."""

    def __init__(self, tensors: Tensors, model: Model) -> None:
        self._tensors = tensors
        self._model = model
        self._stream = mixing(model.architecture.hidden) if _stream_turns(model) else None
        self._head = mixing(model.architecture.head_dim)
        self._inner = mixing_fast(model.architecture.intermediate)
        self._shapes = tensor_shapes(model)
        self.names = tuple(dict.fromkeys((*tensors.names, HEAD)))

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor."""
        shape = self._shapes.get(name, self._shapes[EMBEDDING])
        return np.concatenate(list(self.blocks(name))).reshape(shape)

    def blocks(self, name: str) -> Iterator[FloatArray]:
        """Its rows, a bounded block at a time."""
        change, one = self._change(name), np.float32(self._model.norm.from_one)
        if change.scale == name:
            yield np.ones(self._shapes[name], np.float32) - one
            return
        scale = self._tensors.tensor(change.scale) + one if change.scale else None
        blocks = (change.apply(rows, scale) for rows in _cut(self._tensors.blocks(change.source)))
        yield from blocks if change.rows is None else _mixed(blocks, self._shapes[change.source], change.rows)

    def _change(self, name: str) -> _Change:
        stream, norm = self._stream, f"{LAST_NORM}.weight" if self._stream else ""
        if name == HEAD:
            return _Change(EMBEDDING if self._model.tied else HEAD, norm, columns=stream)
        if name == EMBEDDING:
            return _Change(name, columns=stream)
        if name == norm:
            return _Change(name, norm)
        if not name.startswith(f"{LAYER}."):
            return _Change(name)
        return self._layer_change(name)

    def _layer_change(self, name: str) -> _Change:
        _, _, layer, rest = name.split(".", 3)
        part, _, projection = rest.rsplit(".", 1)[0].partition(".")
        before = _BEFORE.get("self_attn" if self._model.shared_norm else part, part)
        norm = f"{LAYER}.{layer}.{before}.weight" if self._stream else ""
        match projection:
            case "o_proj" | "down_proj":
                read = self._head if projection == "o_proj" else self._inner
                return _Change(name, columns=read, rows=self._stream)
            case "v_proj":
                return _Change(name, norm, columns=self._stream, rows=self._head)
            case "q_proj" | "k_proj" | "gate_proj" | "up_proj":
                return _Change(name, norm, columns=self._stream)
            case _:  # a norm: of the stream, or of heads
                return _Change(name, norm if part in _BEFORE.values() else "")


@dataclass(frozen=True)
class _Change:
    """How a tensor is made of the one called `source`: its columns are scaled by a norm and turned, its rows turned."""

    source: str
    scale: str = ""
    columns: Basis | None = None
    rows: Basis | None = None

    def apply(self, rows: FloatArray, scale: FloatArray | None) -> FloatArray:
        """What is done to each row by itself."""
        if rows.ndim == 1:  # a bias
            return rows
        rows = rows if scale is None else rows * scale
        return rows if self.columns is None else self.columns.turn(rows)


def _mixed(blocks: Iterator[FloatArray], shape: tuple[int, ...], basis: Basis) -> Iterator[FloatArray]:
    """The rows of a whole matrix turned, some columns at a time: more than the matrix itself is never in memory."""
    whole, end = np.empty((shape[0], math.prod(shape[1:])), np.float32), 0
    for block in blocks:
        start, end = end, end + len(block)
        whole[start:end] = block.reshape(len(block), -1)
    for start in range(0, whole.shape[1], _COLUMNS):
        columns = whole[:, start : start + _COLUMNS]
        columns[:] = basis.turn(np.ascontiguousarray(columns.T)).T
    yield from (rows.reshape(-1, *shape[1:]) for rows in _cut([whole]))


def _cut(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    for block in blocks:
        yield from (block[start : start + _ROWS] for start in range(0, len(block), _ROWS))


def _stream_turns(model: Model) -> bool:
    names = (name.split(".", 3)[3].rsplit(".", 1)[0] for name in tensor_shapes(model) if name.startswith(f"{LAYER}."))
    return not model.norm.centred and not model.norm.bias and _TURNABLE.issuperset(names)
