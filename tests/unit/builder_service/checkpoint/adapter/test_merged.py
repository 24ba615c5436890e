"""An adapter merged as tensors are read is W + alpha / rank * B A, by blocks and by parts of a matrix alike."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.checkpoint import safetensors as safetensors_files
from builder_service.checkpoint.adapter.adapter import open_adapter
from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.adapter.merged import MergedTensors
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_model
from builder_service.model.tensors import ModelTensors
from builder_service.verify.second.adapter import SecondAdapter
from builder_service.verify.second.reading import SecondReading
from common.errors import InvalidArgument
from tests.nightly import one_in
from tests.samples.adapters.folders import matrices_of, merge_by_hand, save_adapter, write_adapter
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import CONFIGS, write_family
from tests.samples.gguf.files import write_gguf
from tests.samples.packed.folders import pack_checkpoint
from tests.samples.packed.ways import WAYS

Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"


class Base:
    """`StoredTensors` that are in memory, two rows at a time."""

    def __init__(self, **tensors: np.ndarray) -> None:
        self._tensors = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        self.names = tuple(sorted(self._tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        raise AssertionError(name)

    def tensor(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def blocks(self, name: str, rows: Any = ()) -> Any:
        for part in rows or (range(len(self._tensors[name])),):
            for start in range(part.start, part.stop, 2):
                yield self._tensors[name][start : min(start + 2, part.stop)]


def _model_tensors(checkpoint: Checkpoint) -> ModelTensors:
    found = ModelTensors(checkpoint.tensors, read_model(checkpoint.config))
    found.check()
    return found


def _check(base: Checkpoint, adapter: Path, merged: Path) -> None:
    ours, wanted = (
        _model_tensors(AdaptedCheckpoint(base, open_adapter(adapter))),
        _model_tensors(open_checkpoint(merged)),
    )
    for name in wanted.names:
        np.testing.assert_allclose(ours.tensor(name), wanted.tensor(name), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", one_in(6, sorted(CONFIGS)))
def test_every_family_is_merged_under_its_own_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_files, "BLOCK_BYTES", 3000)  # some rows at a time
    base = write_family(tmp_path / "base", name)
    adapter = write_adapter(tmp_path / "adapter", matrices_of(base))
    merged = merge_by_hand(base, adapter, tmp_path / "merged")
    _check(open_checkpoint(base), adapter, merged)
    model, wanted = read_model(open_checkpoint(base).config), _model_tensors(open_checkpoint(merged))
    second = SecondAdapter(SecondReading(base, model), adapter, model)
    for tensor in second.names:
        np.testing.assert_allclose(second.tensor(tensor), wanted.tensor(tensor), rtol=1e-6, atol=1e-6, err_msg=tensor)


def test_a_quantized_model_is_merged_as_what_its_weights_stand_for(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", hidden=64, layers=1, tokenizer=False)
    adapter = write_adapter(tmp_path / "adapter", matrices_of(source), dtype=ml_dtypes.bfloat16)
    packed = pack_checkpoint(source, tmp_path / "packed", WAYS["gptq-act-order"], tmp_path / "plain")
    _check(open_checkpoint(packed), adapter, merge_by_hand(tmp_path / "plain", adapter, tmp_path / "merged"))
    file = write_gguf(tmp_path / "x.gguf", source)  # whose rows of queries and keys stand in another order
    _check(open_path(file), adapter, merge_by_hand(source, adapter, tmp_path / "again"))


@given(data=st.data())
def test_any_rows_are_those_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    outputs, inputs, rank = (data.draw(st.integers(1, most)) for most in (9, 5, 4))
    cuts = sorted(data.draw(st.sets(st.integers(0, outputs), min_size=2)))
    rows = data.draw(st.permutations([range(*pair) for pair in pairwise(cuts)]))
    dora, by_root, alpha = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.integers(1, 32))
    weight = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((outputs, inputs), np.float32)
    folder = tmp_path_factory.mktemp("adapter", numbered=True)
    write_adapter(folder, {"a": weight.shape}, rank=rank, lora_alpha=alpha, use_rslora=by_root, use_dora=dora)
    adapter = open_adapter(folder)
    tensors = MergedTensors(Base(a__weight=weight), adapter)
    part = {
        name.rpartition("lora_")[2]: adapter.stored.tensor(name).astype(np.float64) for name in adapter.stored.names
    }
    wanted = weight + alpha / (rank**0.5 if by_root else rank) * (part["B.weight"] @ part["A.weight"])
    if dora:
        wanted *= (part["magnitude_vector"] / np.linalg.norm(wanted, axis=1))[:, None]
    np.testing.assert_allclose(tensors.tensor("a.weight"), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        np.concatenate(list(tensors.blocks("a.weight", rows))),
        np.concatenate([wanted[one.start : one.stop] for one in rows]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_whole_tensors_take_the_place_of_the_models_and_embeddings_are_added_transposed(tmp_path: Path) -> None:
    zero, ones = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)
    down, up = np.arange(8, dtype=np.float32).reshape(2, 4), np.arange(6, dtype=np.float32).reshape(3, 2)
    folder = save_adapter(
        tmp_path / "adapter",
        {
            "base_model.model.lm_head.weight": ones,
            f"{KEY}.base_layer.bias": ones[:, 0],
            f"{KEY}.modules_to_save.weight": 2 * ones,
            "base_model.model.model.embed_tokens.lora_embedding_A": down,
            "base_model.model.model.embed_tokens.lora_embedding_B": up,
        },
        r=2,
        lora_alpha=6,
    )
    names = ("lm_head__weight", "model__embed_tokens__weight", f"{Q}.weight".replace(".", "__"))
    base = Base(**dict.fromkeys(names, zero), **{f"{Q}.bias".replace(".", "__"): zero[:, 0]})
    tensors = MergedTensors(base, open_adapter(folder))
    assert tensors.tensor("lm_head.weight").tolist() == ones.tolist()
    assert tensors.tensor(f"{Q}.bias").tolist() == [1] * 4
    assert tensors.tensor(f"{Q}.weight").tolist() == (2 * ones).tolist()
    assert tensors.tensor("model.embed_tokens.weight").tolist() == (3 * (up @ down).T).tolist()


@pytest.mark.parametrize(
    ("stored", "module"),
    [
        ("language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
        ("language_model.model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("h.0.mlp.up_proj", "transformer.h.0.mlp.up_proj"),
    ],
)
def test_what_stands_before_a_name_may_differ(tmp_path: Path, stored: str, module: str) -> None:
    adapter = open_adapter(write_adapter(tmp_path, {module: (4, 3)}))
    zero = np.zeros((4, 3), np.float32)
    other = "vision_tower.encoder.layers.0.mlp.up_proj.weight".replace(".", "__")
    tensors = MergedTensors(Base(**{f"{stored}.weight".replace(".", "__"): zero, other: zero}), adapter)
    assert list(tensors.changes) == [f"{stored}.weight"]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {"model.layers.9.self_attn.q_proj": (32, 32)},
            "changes model.layers.9.self_attn.q_proj.weight, which the model",
        ),
        ({Q: (32, 16)}, r"as one of shape \[32, 16\]; the model's has \[32, 32\]; it was trained with 'org/base'"),
        ({Q: (32, 32), "language_" + Q: (32, 32)}, f"changes {Q}.weight twice"),
        ({"lm_head": (384, 32)}, r"one matrix for .*tie_word_embeddings.*untied"),
        ({"model.embed_tokens": (384, 32)}, "tie_word_embeddings"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, shapes: dict[str, tuple[int, int]], said: str) -> None:
    base = open_checkpoint(write_checkpoint(tmp_path / "base", tokenizer=False, tied=True))
    checkpoint = AdaptedCheckpoint(base, open_adapter(write_adapter(tmp_path / "adapter", shapes)))
    with pytest.raises(InvalidArgument, match=said) as caught:
        checkpoint.check_shared(("model.embed_tokens.weight", "lm_head.weight"))
        _ = checkpoint.tensors
    assert [violation.field for violation in caught.value.violations] == ["spec.source.adapter"]


def test_what_is_not_finite_once_it_is_merged_is_refused(tmp_path: Path) -> None:
    big = np.full((2, 2), 1e30, np.float32)
    folder = save_adapter(tmp_path, {f"{KEY}.lora_A.weight": big, f"{KEY}.lora_B.weight": big}, r=2)
    tensors = MergedTensors(Base(**{f"{Q}.weight".replace(".", "__"): big}), open_adapter(folder))
    with np.errstate(all="ignore"), pytest.raises(InvalidArgument, match="not finite once the adapter is merged"):
        tensors.tensor(f"{Q}.weight")
