"""Where a family's checkpoints keep the tensors that the graph asks for by their Llama names.

A tensor may be some rows of a larger one: queries, keys and values of one matrix, say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from common.spec.manifest import Architecture

_QKV = ("q_proj", "k_proj", "v_proj")
_GATED = ("gate_proj", "up_proj")
_OUTSIDE_LAYERS = ("model.embed_tokens", "model.norm", "lm_head")


class Fused(Enum):
    """How rows of queries, keys and values lie in one matrix."""

    NO = "no"
    IN_BLOCKS = "in_blocks"  # all queries, all keys, all values
    BY_GROUP = "by_group"  # for each key/value head: its queries, its key, its value


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor of the checkpoint; no ranges: all of them."""

    tensor: str
    rows: tuple[range, ...] = ()


@dataclass(frozen=True)
class Names:
    """A family's names. `renamed` has what differs from Llama, without the prefix of a layer and without `.weight`."""

    layer: str = "model.layers"
    renamed: Mapping[str, str] = field(default_factory=dict)
    fused_qkv: Fused = Fused.NO
    fused_gate: bool = False

    def under(self, prefix: str) -> Names:
        """The same names behind a prefix, as in a model that holds this one."""
        outside = {name: prefix + self.renamed.get(name, name) for name in _OUTSIDE_LAYERS}
        return replace(self, layer=prefix + self.layer, renamed={**self.renamed, **outside})

    def piece(self, shapes: Architecture, name: str) -> Piece:
        """Where the tensor `name` (Llama's) lies."""
        if not name.startswith("model.layers."):
            stem, kind = name.rsplit(".", 1)
            return Piece(f"{self.renamed.get(stem, stem)}.{kind}")
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        tensor = f"{self.layer}.{layer}.{self.renamed.get(stem, stem)}.{kind}"
        return Piece(tensor, self._rows(shapes, stem.rsplit(".", 1)[-1]))

    def _rows(self, shapes: Architecture, projection: str) -> tuple[range, ...]:
        if projection in _QKV and self.fused_qkv is Fused.IN_BLOCKS:
            return (_block(shapes, projection),)
        if projection in _QKV and self.fused_qkv is Fused.BY_GROUP:
            return _groups(shapes, projection)
        if projection in _GATED and self.fused_gate:
            start = _GATED.index(projection) * shapes.intermediate
            return (range(start, start + shapes.intermediate),)
        return ()


def _block(shapes: Architecture, projection: str) -> range:
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    start = {"q_proj": 0, "k_proj": queries, "v_proj": queries + keys}[projection]
    return range(start, start + (queries if projection == "q_proj" else keys))


def _groups(shapes: Architecture, projection: str) -> tuple[range, ...]:
    queries, size = shapes.heads // shapes.kv_heads * shapes.head_dim, shapes.head_dim
    start = {"q_proj": 0, "k_proj": queries, "v_proj": queries + size}[projection]
    rows = queries if projection == "q_proj" else size
    stride = queries + 2 * size
    return tuple(range(head * stride + start, head * stride + start + rows) for head in range(shapes.kv_heads))
