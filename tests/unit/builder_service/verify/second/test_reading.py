"""Two ways to read a checkpoint: they agree where both are right, and differ where the first errs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.model.tensors import ModelTensors
from builder_service.verify.second import reading as second_reading
from builder_service.verify.second.reading import SecondReading
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import CONFIGS, write_family


def assert_agree(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    first, second = ModelTensors(checkpoint.tensors, model), SecondReading(folder, model)
    assert second.names == first.names
    for name in first.names:
        np.testing.assert_array_equal(second.tensor(name), first.tensor(name))
        assert second.tensor(name).dtype == np.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_they_agree_on_every_family(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_reading, "BLOCK_BYTES", 1000)  # some rows at a time
    assert_agree(write_family(tmp_path, name))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_they_agree_on_every_type_and_on_shards(tmp_path: Path, dtype: str, shards: int) -> None:
    assert_agree(write_checkpoint(tmp_path, tokenizer=False, dtype=dtype, shards=shards))


def test_of_two_shards_with_one_tensor_the_index_says_which(tmp_path: Path) -> None:
    """A stale copy of a tensor lies in a later shard than the one that the index names."""
    folder, name = write_checkpoint(tmp_path, tokenizer=False, shards=2), "model.embed_tokens.weight"
    first, second = (folder / f"model-0000{shard}-of-00002.safetensors" for shard in (1, 2))
    right = load_file(first)[name]
    save_file(load_file(second) | {name: -right}, second)
    reading = SecondReading(folder, read_model(open_checkpoint(folder).config))
    np.testing.assert_array_equal(reading.tensor(name), right)
