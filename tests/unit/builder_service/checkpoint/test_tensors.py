"""Tensors of a checkpoint: the numbers that were stored, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from builder_service.checkpoint import safetensors as module
from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.checkpoint.folders import ENTRY, truncate, write_raw, write_tensors

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_storage_type_is_read_as_the_same_numbers(tmp_path: Path, dtype: Any) -> None:
    stored = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    checkpoint = open_checkpoint(write_tensors(tmp_path / "c", {"a": stored}))
    values = checkpoint.tensors.tensor("a")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, stored.astype(np.float32))
    assert checkpoint.tensors.shape("a") == (5, 7)


def test_extreme_bfloat16_values_keep_their_bits(tmp_path: Path) -> None:
    stored = np.array([0.0, -0.0, 1e-40, -3.3e38, 1.0], ml_dtypes.bfloat16)
    values = open_checkpoint(write_tensors(tmp_path / "c", {"a": stored})).tensors.tensor("a")
    np.testing.assert_array_equal(values, stored.astype(np.float32))
    assert np.signbit(values[1])


def test_blocks_hold_all_rows_in_order_and_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.arange(70, dtype=np.float32).reshape(10, 7)
    checkpoint = open_checkpoint(write_tensors(tmp_path / "c", {"a": stored}))
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * 7 * 4 + 1)
    blocks = list(checkpoint.tensors.blocks("a"))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), stored)


def test_a_row_larger_than_a_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(write_tensors(tmp_path / "c", {"a": np.ones((2, 9), np.float32)}))
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert [block.shape for block in checkpoint.tensors.blocks("a")] == [(1, 9), (1, 9)]


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    one, three = (open_checkpoint(write_checkpoint(tmp_path / str(count), shards=count)).tensors for count in (1, 3))
    assert one.names == three.names
    for name in one.names:
        np.testing.assert_array_equal(one.tensor(name), three.tensor(name))


def test_files_are_those_that_were_read(tmp_path: Path) -> None:
    sharded = open_checkpoint(write_checkpoint(tmp_path / "c", shards=2))
    assert [path.name for path in sharded.files] == [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_generation_config_is_empty_where_there_is_none(tmp_path: Path) -> None:
    assert open_checkpoint(write_tensors(tmp_path / "c", {"a": np.ones(1, np.float32)})).generation_config == {}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I32", "U8"])
def test_a_tensor_of_another_type_is_refused_once_it_is_needed(tmp_path: Path, dtype: str) -> None:
    header = {"a": ENTRY | {"dtype": dtype}, "b": ENTRY}
    checkpoint = open_checkpoint(write_raw(tmp_path / "c", header, bytes(8)))
    np.testing.assert_array_equal(checkpoint.tensors.tensor("b"), [0, 0])
    with pytest.raises(InvalidArgument, match=f"tensor a in model.safetensors is {dtype}; F32, F16"):
        checkpoint.tensors.require("a", (2,))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", layers=1))
    for ask in (
        checkpoint.tensors.tensor,
        checkpoint.tensors.shape,
        lambda name: list(checkpoint.tensors.blocks(name)),
    ):
        with pytest.raises(InvalidArgument, match=f"tensor {NAME} is missing from model.safetensors"):
            ask(NAME)


def test_another_shape_than_config_asks_for_is_refused_with_both(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", hidden=32))
    with pytest.raises(InvalidArgument, match=r"model\.norm\.weight in model\.safetensors has shape \[32\].*\[64\]"):
        checkpoint.tensors.require("model.norm.weight", (64,))
    checkpoint.tensors.require("model.norm.weight", (32,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    stored = np.ones((4, 4), ml_dtypes.bfloat16)
    stored[2, 3] = value
    checkpoint = open_checkpoint(write_tensors(tmp_path / "c", {"a": stored}))
    with pytest.raises(InvalidArgument, match=r"tensor a in model\.safetensors is not finite"):
        checkpoint.tensors.tensor("a")


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    checkpoint = open_checkpoint(folder)
    truncate(folder)
    with pytest.raises(InvalidArgument, match=r"model\.safetensors ends inside tensor"):
        for name in checkpoint.tensors.names:
            checkpoint.tensors.tensor(name)
