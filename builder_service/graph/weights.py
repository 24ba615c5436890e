"""The weights file: one tensor after another, each at the start of a page, written as they are made.

onnxruntime maps the file into memory, which needs the alignment. Offsets follow from shapes alone, so the graph is
complete before a byte of weights is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.graph import Array, Weight, WeightGroup

ALIGNMENT = 4096


def layout(groups: Sequence[WeightGroup]) -> dict[str, int]:
    """Offset of every weight, by name."""
    offsets: dict[str, int] = {}
    end = 0
    for weight in _weights(groups):
        offsets[weight.name] = end = -(-end // ALIGNMENT) * ALIGNMENT
        end += weight.size_bytes
    return offsets


def file_bytes(groups: Sequence[WeightGroup]) -> int:
    """Size of the weights file."""
    offsets = layout(groups)
    return max((offsets[weight.name] + weight.size_bytes for weight in _weights(groups)), default=0)


def write(groups: Sequence[WeightGroup], tensors: Tensors, path: Path, progress: Callable[[float], None]) -> None:
    """Make and write every weight, one group in memory at a time; `progress` gets the share done, up to 1."""
    offsets, total = layout(groups), max(file_bytes(groups), 1)
    with path.open("wb") as stream:
        for group in groups:
            pieces = group.produce(tensors)
            for weight in group.weights:
                stream.seek(offsets[weight.name])
                _write_weight(stream, weight, pieces)
                progress(stream.tell() / total)
            assert next(pieces, None) is None, f"more than was announced for {group.weights}"


def _write_weight(stream: BinaryIO, weight: Weight, pieces: Iterator[Array]) -> None:
    left = weight.size_bytes
    while left > 0:
        piece = next(pieces)
        assert piece.dtype == weight.stored, (weight, piece.dtype)
        assert piece.flags.c_contiguous, weight
        stream.write(piece.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
        left -= piece.nbytes
    assert left == 0, f"{weight} got {-left} bytes too many"


def _weights(groups: Sequence[WeightGroup]) -> Iterator[Weight]:
    for group in groups:
        yield from group.weights
