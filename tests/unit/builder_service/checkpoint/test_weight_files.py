"""Which files hold the weights, as people have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument, NotFound
from tests.samples.checkpoints import write_checkpoint

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
ONE, TWO = (np.full(1, value, np.float32) for value in (1, 2))


def _folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def _two_shards(folder: Path, *, index: Mapping[str, str] | None) -> Path:
    """A folder in which two shards hold the tensor `a`, once of ones and once of twos, and the second holds `b` too."""
    _folder(folder)
    save_file({"a": ONE}, folder / SHARDS[0])
    save_file({"a": TWO, "b": TWO}, folder / SHARDS[1])
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize(("shard", "value"), [(SHARDS[0], 1), (SHARDS[1], 2)])
def test_the_index_says_which_of_two_shards_has_a_tensor(tmp_path: Path, shard: str, value: int) -> None:
    tensors = open_checkpoint(_two_shards(tmp_path / "c", index={"a": shard, "b": SHARDS[1]})).tensors
    assert (tensors.tensor("a").tolist(), tensors.tensor("b").tolist()) == ([value], [2])


def test_a_tensor_in_two_shards_that_no_index_assigns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=rf"tensor a is in {SHARDS[0]} and {SHARDS[1]}, and no index"):
        open_checkpoint(_two_shards(tmp_path / "c", index=None))


def test_shards_without_an_index_are_read_together(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", shards=3)
    whole = open_checkpoint(folder).tensors.names
    (folder / "model.safetensors.index.json").unlink()
    assert open_checkpoint(folder).tensors.names == whole
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model-00002-of-00003\.safetensors"):
        open_checkpoint(folder)


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    folder = _two_shards(tmp_path / "c", index={"a": SHARDS[1]})
    save_file({"a": ONE + TWO}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.tensor("a").tolist() == [3]
    assert [path.name for path in checkpoint.files] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_named_with_where_it_belongs(tmp_path: Path, config: bool) -> None:
    folder = _folder(tmp_path / "c")
    save_file({"a": ONE}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(
        InvalidArgument, match=r"LoRA adapter \(adapter_config\.json\).*source\.adapter: sinkserve run MODEL --adapter "
    ):
        open_checkpoint(folder)
