from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.checkpoint import StoredTensors, Tensors
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.graph.graph import Array, Weight, WeightGroup
from builder_service.graph.weights import ALIGNMENT, file_bytes, layout, write
from tests.samples.checkpoints import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> StoredTensors:
    return open_checkpoint(write_checkpoint(tmp_path / "c", layers=1, tokenizer=False)).tensors


def _group(name: str, *pieces: Array, announced: tuple[int, ...] | None = None) -> WeightGroup:
    shape = announced or (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
    return WeightGroup((Weight(name, pieces[0].dtype, shape),), lambda _: iter(pieces))


def test_every_weight_begins_on_a_page_and_none_overlap() -> None:
    sizes = [1, ALIGNMENT, ALIGNMENT + 1, 7]
    groups = [_group(f"w{size}", np.zeros(size, np.int8)) for size in sizes]
    offsets = layout(groups)
    assert list(offsets.values()) == [0, ALIGNMENT, 2 * ALIGNMENT, 4 * ALIGNMENT]
    assert file_bytes(groups) == 4 * ALIGNMENT + 7
    assert file_bytes([]) == 0


def test_what_is_written_is_what_was_made(checkpoint: StoredTensors, tmp_path: Path) -> None:
    floats, bytes_ = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32), np.arange(9, dtype=np.int8)

    def both(_: Tensors) -> Iterator[Array]:
        yield floats[:2]
        yield floats[2:]
        yield bytes_

    pair = WeightGroup((Weight("f", floats.dtype, (5, 3)), Weight("b", bytes_.dtype, (9,))), both)
    groups = [_group("first", np.ones(1, np.float32)), pair]
    shares: list[float] = []
    path = tmp_path / "weights.bin"
    write(groups, checkpoint, path, shares.append)
    data, offsets = path.read_bytes(), layout(groups)
    assert len(data) == file_bytes(groups)
    assert data[offsets["f"] : offsets["f"] + 60] == floats.tobytes()
    assert data[offsets["b"] : offsets["b"] + 9] == bytes_.tobytes()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("announced", [(2,), (4,)])
def test_more_or_less_than_announced_is_a_fault(
    checkpoint: StoredTensors, tmp_path: Path, announced: tuple[int]
) -> None:
    group = _group("w", np.zeros(3, np.int8), announced=announced)
    with pytest.raises((AssertionError, StopIteration)):
        write([group], checkpoint, tmp_path / "weights.bin", lambda _: None)


def test_another_type_than_announced_is_a_fault(checkpoint: StoredTensors, tmp_path: Path) -> None:
    group = WeightGroup((Weight("w", np.dtype(np.float32), (3,)),), lambda _: iter([np.zeros(3, np.int32)]))
    with pytest.raises(AssertionError):
        write([group], checkpoint, tmp_path / "weights.bin", lambda _: None)
