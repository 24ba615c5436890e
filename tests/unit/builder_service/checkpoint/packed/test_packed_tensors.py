"""A packed checkpoint gives the weights that were packed, in blocks and as float32, to both readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.checkpoint.checkpoint import BlockFormat, PackedRows
from builder_service.checkpoint.folder import FolderCheckpoint, open_checkpoint
from builder_service.checkpoint.packed import tensors as packed_tensors
from builder_service.families.registry import read_model
from builder_service.graph.quantize import int4_values
from builder_service.model.tensors import ModelTensors
from builder_service.verify.second import packed as second_packed
from builder_service.verify.second.packed import SecondPacked
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import ModelSpec, Precision, Source
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import write_family
from tests.samples.packed.folders import pack_checkpoint
from tests.samples.packed.ways import WAYS, Way

KEEP = ModelSpec(name="a", source=Source(uri="/a"), precision=Precision.KEEP)


def packed(tmp_path: Path, way: Way, **shape: Any) -> Path:
    source = write_checkpoint(tmp_path / "source", hidden=64, layers=2, tokenizer=False, **shape)
    return pack_checkpoint(source, tmp_path / "packed", way, tmp_path / "plain")


def read(folder: Path) -> tuple[FolderCheckpoint, ModelTensors]:
    checkpoint = open_checkpoint(folder)
    found = ModelTensors(checkpoint.tensors, read_model(checkpoint.config))
    found.check()
    return checkpoint, found


def weights(rows: PackedRows, found: BlockFormat) -> np.ndarray:
    values, zeros = (int4_values(x) if found.bits == 4 else x for x in (rows.values, rows.zeros))
    blocks = (values.astype(np.float32) - zeros[:, : rows.scales.shape[1], None]) * rows.scales[..., None]
    flat = blocks.reshape(len(blocks), -1)
    return flat if rows.order is None else flat[:, np.argsort(rows.order)]


@pytest.mark.parametrize("name", WAYS)
def test_weights_are_those_that_were_packed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, limit in ((packed_tensors, "BLOCK_BYTES"), (second_packed, "STEP_VALUES")):
        monkeypatch.setattr(module, limit, 3000)  # some rows at a time
    way = WAYS[name]
    checkpoint, found = read(packed(tmp_path, way))
    _, plain = read(tmp_path / "plain")
    second = SecondPacked(tmp_path / "packed", read_model(checkpoint.config))
    kept = found.weight_format(KEEP).kept
    assert {one.bits for one in kept.values()} == {way.bits}
    assert len(kept) == 2 * 7 - 1, "all of the layers but the one that is left out"
    for tensor in plain.names:
        wanted = plain.tensor(tensor)
        np.testing.assert_array_equal(found.tensor(tensor), wanted)
        np.testing.assert_array_equal(second.tensor(tensor), wanted)
        if tensor in kept:
            held = np.concatenate([weights(rows, kept[tensor]) for rows in found.packed(tensor)])
            np.testing.assert_array_equal(held, wanted)
        if tensor in kept and kept[tensor].order:
            np.testing.assert_array_equal(second.order(tensor), next(found.packed(tensor)).order)


def test_blocks_suit_the_engine_and_matrices_in_one_order_have_one_format(tmp_path: Path) -> None:
    formats = {}
    for name in ("compressed-8-by-row", "gptq-8", "gptq-act-order", "gptq-act-orders"):
        kept = read(packed(tmp_path / name, WAYS[name]))[1].weight_format(KEEP).kept
        formats[name] = [kept[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert formats["compressed-8-by-row"][0] == BlockFormat(8, 64)
    assert formats["gptq-8"][0] == BlockFormat(8, 16)
    assert len({one.order for one in formats["gptq-act-order"]}) == 1
    assert len({one.order for one in formats["gptq-act-orders"]} - {""}) == 3


def test_rows_of_a_fused_matrix_are_found(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "phi3", hidden_size=64, intermediate_size=64)
    folder = pack_checkpoint(source, tmp_path / "packed", Way("awq"), tmp_path / "plain")
    checkpoint, found = read(folder)
    second, (_, plain) = SecondPacked(folder, read_model(checkpoint.config)), read(tmp_path / "plain")
    for name in plain.names:
        np.testing.assert_array_equal(found.tensor(name), plain.tensor(name))
        np.testing.assert_array_equal(second.tensor(name), plain.tensor(name))


Q_PROJ = "model.layers.0.self_attn.q_proj"


def _spoiled(folder: Path, **changes: np.ndarray | None) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for part, value in changes.items():
        tensors.pop(f"{Q_PROJ}.{part}", None)
        tensors |= {} if value is None else {f"{Q_PROJ}.{part}": value}
    save_file(tensors, file)
    return folder


GROUPS = np.repeat(np.arange(2), (40, 24)).astype(np.int32)


@pytest.mark.parametrize(
    ("way", "changes", "words"),
    [
        (Way("gptq"), {"qzeros": None}, r"q_proj\.qzeros is missing; quantization_config says that it is not symm"),
        (Way("awq"), {"scales": np.ones((3, 64), np.float16)}, r"q_proj\.scales in .* asks for \[2, 64\]"),
        (Way("awq"), {"qweight": np.ones((64, 8), np.float32)}, r"q_proj\.qweight in .* is F32; I32 can be read"),
        (Way("awq"), {"weight": np.ones((64, 64), np.float32)}, r"qweight in .* is there, and so is .*q_proj\.weight"),
        (Way("gptq"), {"qzeros": np.full((2, 8), -1, np.int32)}, "which is 0 to one reader and 16 to another"),
        (WAYS["gptq-symmetric"], {"qzeros": np.full((4, 8), 0x12345678, np.int32)}, "sym says that it is"),
        (Way("gptq"), {"g_idx": np.full(64, 9, np.int32)}, r"g_idx in .* one of 2 groups to each of 64 inputs"),
        (Way("gptq", group=8), {}, r"64 inputs in groups of 8 \(quantization_config\.group_size\), which cannot be"),
        (Way("gptq"), {"g_idx": GROUPS}, r"unequal size \(quantization_config\.desc_act\)"),
        (Way("compressed-tensors"), {"weight_zero_point": None}, "weight_zero_point is missing"),
        (Way("compressed-tensors"), {"weight_shape": np.array([64, 99])}, r"says \[64, 99\], and the numbers"),
    ],
)
def test_what_cannot_be_kept_is_named_before_a_weight_is_read(
    tmp_path: Path, way: Way, changes: dict[str, np.ndarray | None], words: str
) -> None:
    folder = _spoiled(packed(tmp_path, way), **changes)
    with pytest.raises(InvalidArgument, match=words) as caught:
        read(folder)[1].weight_format(KEEP)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID


def test_a_symmetric_file_may_hold_the_zeros_of_either_version(tmp_path: Path) -> None:
    """Files that say the first version and hold the second's zero points exist."""
    folder = _spoiled(packed(tmp_path, WAYS["gptq-symmetric"]), qzeros=np.full((4, 8), -0x77777778, np.int32))
    name = f"{Q_PROJ}.weight"
    np.testing.assert_array_equal(read(folder)[1].tensor(name), read(tmp_path / "plain")[1].tensor(name))


def test_a_module_that_is_listed_as_left_out_is_not_packed(tmp_path: Path) -> None:
    folder = packed(tmp_path, Way("awq"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = [Q_PROJ]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidArgument, match=r"lists model\.layers\.0\.self_attn\.q_proj as not quantized"):
        open_checkpoint(folder)
