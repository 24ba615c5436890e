"""The tensors of a GGUF by the names of a Hugging Face checkpoint, as float32, a bounded part at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize

from builder_service.checkpoint.checkpoint import BlockFormat, FloatArray, PackedRows
from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.gguf.blocks import FLOATS, block_format, kept_types, pack
from builder_service.checkpoint.gguf.header import StoredBlocks
from builder_service.checkpoint.gguf.kinds import Kind

BLOCK_BYTES = 16 << 20  # of float32, the most that `blocks` holds at a time
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_TURNED = ("self_attn.q_proj", "self_attn.k_proj")
Bytes = npt.NDArray[np.uint8]


class GgufTensors:
    """`StoredTensors` and `BlockTensors` of a GGUF whose rows of queries and keys may have to be put back in order.

    `heads` are those of queries and of keys; methods raise InvalidArgument (CHECKPOINT_INVALID).
    """

    def __init__(self, stored: Sequence[StoredBlocks], kind: Kind, heads: tuple[int, int]) -> None:
        names = LAYER_NAMES | OTHER_NAMES | dict(kind.renamed)
        self._stored = dict(entry for each in stored for entry in _published(each, names))
        self._own_names = {name: own for own, name in names.items()}
        self._less_one = kind.norms_plus_one
        self._file = stored[0].file.name if stored else ""
        self._turned = dict(zip(_TURNED, heads, strict=True)) if kind.interleaved else {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._stored))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._entry(name).shape

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the tensor `name` exists in `shape`, in a type that can be read."""
        entry = self._entry(name)
        if entry.shape != shape:
            found, wanted = list(entry.shape), list(shape)
            message = f"tensor {entry.name} in {entry.file.name} has shape {found}; its metadata ask for {wanted}"
            raise invalid(message, file=entry.file.name, tensor=entry.name)
        _dequantized(np.zeros((1, entry.row_bytes), np.uint8), entry)

    def tensor(self, name: str) -> FloatArray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.blocks(name))).reshape(self._entry(name).shape)

    def blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[FloatArray]:
        """The tensor's rows, or those in `rows`, as finite float32, in blocks of at most BLOCK_BYTES; a vector is one
        block.
        """
        entry = self._entry(name)
        if len(entry.shape) == 1:
            values = _dequantized(_read(entry, 0, 1), entry).reshape(-1)
            values = values - np.float32(1) if self._less_one and name.endswith("norm.weight") else values
            order = _order(len(values), self._heads(name))
            whole = values[order]
            yield from (whole[part.start : part.stop] for part in rows or (range(len(whole)),))
            return
        for raw in self._raw_blocks(name, rows):
            yield _dequantized(raw, entry)

    def block_format(self, name: str) -> BlockFormat | None:
        """How a matrix can be held as it is; None: as float32."""
        entry = self._entry(name)
        found = block_format(entry.kind)
        if found is None and entry.kind not in FLOATS:
            message = f"tensor {entry.name} in {entry.file.name} is {entry.kind.name}, which cannot be kept; "
            message += f"{kept_types()} can: build with precision fp32, int8 or int4"
            raise invalid(message, file=entry.file.name, tensor=entry.name, dtype=entry.kind.name)
        return found

    def packed(self, name: str, rows: Sequence[range] = ()) -> Iterator[PackedRows]:
        """The rows of a matrix that has a format, or those in `rows`, a bounded block at a time."""
        entry = self._entry(name)
        for raw in self._raw_blocks(name, rows):
            found = pack(raw, entry.kind)
            if not np.isfinite(found.scales).all() or not (found.rest is None or np.isfinite(found.rest).all()):
                raise _not_finite(entry)
            yield found

    def _raw_blocks(self, name: str, rows: Sequence[range] = ()) -> Iterator[Bytes]:
        """The bytes of a matrix's rows, likewise: [rows, bytes of a row]."""
        entry = self._entry(name)
        step = max(1, BLOCK_BYTES // max(4 * entry.shape[-1], 1))
        for part in rows or (range(entry.rows),):
            for start in range(part.start, part.stop, step):
                yield self._read_rows(entry, name, start, min(start + step, part.stop))

    def _read_rows(self, entry: StoredBlocks, name: str, start: int, stop: int) -> Bytes:
        """Rows in the order of a published checkpoint; order changes within a head only, so whole heads are read."""
        heads = self._heads(name)
        if not heads:
            return _read(entry, start, stop - start)
        width = entry.rows // heads
        first, end = start // width * width, -(-stop // width) * width
        order = _order(entry.rows, heads)[start:stop]
        return _read(entry, first, end - first)[order - first]

    def _heads(self, name: str) -> int:
        """Heads whose rows have to be put in order; 0: none."""
        return next((heads for part, heads in self._turned.items() if f".{part}." in name), 0)

    def _entry(self, name: str) -> StoredBlocks:
        if name not in self._stored:
            own = self._own_name(name)
            raise invalid(f"tensor {own} is missing from {self._file}", file=self._file, tensor=own)
        return self._stored[name]

    def _own_name(self, name: str) -> str:
        """What the file would call a tensor."""
        stem, kind = name.rsplit(".", 1)
        if not name.startswith("model.layers."):
            return f"{self._own_names.get(stem, stem)}.{kind}"
        _, _, layer, rest = stem.split(".", 3)
        rest = re.sub(r"\.experts\.\d+\.", ".experts.{}.", rest)
        return f"blk.{layer}.{self._own_names.get(rest, rest)}.{kind}"


def _published(entry: StoredBlocks, names: Mapping[str, str]) -> Iterator[tuple[str, StoredBlocks]]:
    """A tensor by the name of a Hugging Face checkpoint; a matrix for each expert is one tensor in a GGUF."""
    stem, _, kind = entry.name.rpartition(".")
    if not (stem.startswith("blk.") and stem.count(".") >= 2):
        yield f"{names.get(stem, stem)}.{kind}", entry
        return
    _, layer, rest = stem.split(".", 2)
    name = f"model.layers.{layer}.{names.get(rest, rest)}.{kind}"
    if "{}" not in name:
        yield name, entry
    elif len(entry.shape) == 3:
        size = entry.shape[1] * entry.row_bytes
        for expert in range(entry.shape[0]):
            own = replace(entry, shape=entry.shape[1:], offset=entry.offset + expert * size)
            yield name.format(expert), own


def _order(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Where each row of a published matrix lies in one whose heads are ordered for rotation of neighbours."""
    index = np.arange(rows)
    return index.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1) if heads else index


def _read(entry: StoredBlocks, start: int, count: int) -> Bytes:
    raw = np.fromfile(entry.file, np.uint8, count * entry.row_bytes, offset=entry.offset + start * entry.row_bytes)
    if raw.size != count * entry.row_bytes:
        raise invalid(f"{entry.file.name} ends inside tensor {entry.name}", file=entry.file.name, tensor=entry.name)
    return raw.reshape(count, entry.row_bytes)


def _dequantized(raw: Bytes, entry: StoredBlocks) -> FloatArray:
    """Rows of a matrix as finite float32."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            values = np.asarray(dequantize(raw, entry.kind), np.float32)
    except NotImplementedError:
        message = f"tensor {entry.name} in {entry.file.name} is {entry.kind.name}, which is not read; "
        message += "quantize the model anew, to Q4_K_M or Q8_0 say"
        raise invalid(message, file=entry.file.name, tensor=entry.name, dtype=entry.kind.name) from None
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        raise _not_finite(entry)
    return values


def _not_finite(entry: StoredBlocks) -> Exception:
    message = f"tensor {entry.name} in {entry.file.name} is not finite"
    return invalid(message, file=entry.file.name, tensor=entry.name)
