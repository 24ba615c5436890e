"""A GGUF gives the builder what the folder gives that it was made from, and is refused by name where it is broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFWriter, dequantize

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.checkpoint.gguf import tensors
from builder_service.checkpoint.gguf.checkpoint import GgufCheckpoint
from builder_service.checkpoint.gguf.names import model_name
from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_model, read_rope
from builder_service.model.rope import compute_rope
from builder_service.model.tensors import ModelTensors
from common.errors import InvalidArgument, NotFound, Reason
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import write_family
from tests.samples.gguf.blocks import encode, matrices_in
from tests.samples.gguf.files import write_gguf

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3-moe", "phi2", "phi3", "phi3-longrope", "gemma", "gemma2", "gemma3"),
    *("smollm3", "granite", "arcee", "seed-oss", "starcoder2", "stablelm2", "stablelm2-in-parallel", "olmo2", "olmo3"),
    *("exaone4", "glm4", "command-r", "command-r7b"),
)
CHANGES: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layers": None},  # llama.cpp: every fourth
    "gemma2": {"query_pre_attn_scalar": 12},  # the width of a head
    "gemma3": {"query_pre_attn_scalar": 12},
    "starcoder2": {"sliding_window": None},  # which a GGUF does not say
    "exaone4": {"sliding_window_pattern": None},
}


SMALL = Geometry(sinks=4, window=60, chunk=4, slots=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "folder", layers=1)


@pytest.mark.parametrize(("name", "parts"), [("llama", 1), *((name, 3) for name in FAMILIES)])
def test_it_is_the_model_of_the_folder_it_was_made_from(
    tmp_path: Path, name: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 1000)  # some rows at a time
    published = open_checkpoint(write_family(tmp_path / "folder", name, **CHANGES.get(name, {})))
    checkpoint = open_path(write_gguf(tmp_path / "model.gguf", tmp_path / "folder", parts=parts))
    model = read_model(checkpoint.config)
    wanted = read_model(published.config)
    assert replace(model, rope=None, local_rope=None) == replace(wanted, rope=None, local_rope=None)
    rope, same = read_rope(model, SMALL), read_rope(wanted, SMALL)
    assert rope.attention_scale == pytest.approx(same.attention_scale, rel=1e-6)  # float32 in a GGUF
    assert rope.model_copy(update={"attention_scale": same.attention_scale}) == same
    ours, theirs = ModelTensors(checkpoint.tensors, model), ModelTensors(published.tensors, wanted)
    ours.check()
    for tensor in theirs.names:
        one = np.float32(model.norm.from_one and tensor.endswith("norm.weight"))  # the sum is what is computed with
        np.testing.assert_array_equal(one + ours.tensor(tensor), one + theirs.tensor(tensor))
    assert len(checkpoint.files) == parts


def test_text_and_ends_are_those_of_the_folder(tmp_path: Path, folder: Path) -> None:
    published, checkpoint = open_checkpoint(folder), open_path(write_gguf(tmp_path / "model.gguf", folder))
    assert published.tokenizer is not None
    assert checkpoint.tokenizer is not None
    text = "Grüße aus Köln, 你好 <|user|>What is 12 + 345?<|end|>\n\n  two"
    assert checkpoint.tokenizer.library.encode(text).ids == published.tokenizer.library.encode(text).ids
    assert checkpoint.tokenizer.library.decode([9, 40, 80]) == published.tokenizer.library.decode([9, 40, 80])
    assert checkpoint.tokenizer.special["bos_token"] == "<s>"
    assert checkpoint.tokenizer.adds_bos is False
    assert checkpoint.chat_templates == published.chat_templates
    assert checkpoint.generation_config == {"eos_token_id": [1, 4]}


def test_defaults_for_sampling_are_read(tmp_path: Path, folder: Path) -> None:
    given = {"general.sampling.temp": 0.5, "general.sampling.top_k": 20, "general.sampling.penalty_last_n": 3}
    checkpoint = open_path(write_gguf(tmp_path / "model.gguf", folder, metadata=given))
    assert checkpoint.generation_config == {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 20,
        "eos_token_id": [1, 4],
    }


KINDS = [kind for kind in GGMLQuantizationType if kind.name in {"F16", "BF16", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_blocks_become_the_numbers_of_the_gguf_package(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    source = write_checkpoint(tmp_path / "folder", hidden=256, intermediate=256, layers=1, tokenizer=False)
    checkpoint = open_path(write_gguf(tmp_path / "model.gguf", source, matrices_in(kind, kind)))
    name = "model.layers.0.mlp.up_proj.weight"
    wanted = dequantize(encode(open_checkpoint(source).tensors.tensor(name), kind), kind)
    np.testing.assert_array_equal(checkpoint.tensors.tensor(name), wanted)


def test_frequencies_of_llama_3_are_honoured(tmp_path: Path, folder: Path) -> None:
    """`rope_freqs.weight` divides the frequencies; ignoring it would be silent."""
    factors = np.array([1, 2, 4, 8], np.float32)
    model = read_model(
        open_path(write_gguf(tmp_path / "model.gguf", folder, tensors={"rope_freqs.weight": factors})).config
    )
    plain = read_model(open_path(write_gguf(tmp_path / "plain.gguf", folder)).config)
    assert model.rope is not None
    assert plain.rope is not None
    ours, theirs = compute_rope(model.rope, 64), compute_rope(plain.rope, 64)
    np.testing.assert_allclose(ours.inverse_frequencies, np.array(theirs.inverse_frequencies) / factors, rtol=1e-6)
    assert ours.attention_scale == 1
    assert model.architecture.trained_context == plain.architecture.trained_context


@pytest.mark.parametrize(
    ("metadata", "reason", "words"),
    [
        ({"general.architecture": "gpt-oss"}, Reason.ARCHITECTURE_UNSUPPORTED, "gpt-oss"),
        ({"llama.logit_scale": 2.0}, Reason.CONFIG_UNSUPPORTED, "llama.logit_scale"),
        ({"llama.expert_count": 8}, Reason.CONFIG_UNSUPPORTED, "llama.expert_count"),
        ({"llama.rope.scaling.type": "spiral"}, Reason.CONFIG_UNSUPPORTED, "spiral"),
        ({"llama.rope.dimension_count": 4}, Reason.CONFIG_UNSUPPORTED, "partial_rotary_factor"),
        ({"llama.attention.value_length": 4}, Reason.CHECKPOINT_INVALID, "4 for values"),
        ({"llama.attention.head_count": None}, Reason.CHECKPOINT_INVALID, "head_count"),
        ({"llama.embedding_length": "wide"}, Reason.CONFIG_UNSUPPORTED, "hidden_size"),
        ({"llama.attention.key_length": "wide"}, Reason.CHECKPOINT_INVALID, "wide for keys"),
        ({"tokenizer.ggml.pre": ["a"]}, Reason.CHECKPOINT_INVALID, "pre = "),
        ({"tokenizer.ggml.pre": "klingon"}, Reason.CHECKPOINT_INVALID, "klingon"),
        ({"tokenizer.ggml.model": "rwkv"}, Reason.CHECKPOINT_INVALID, "rwkv"),
        ({"tokenizer.ggml.token_type": [1, 2]}, Reason.CHECKPOINT_INVALID, "token_type"),
        ({"tokenizer.ggml.merges": ["one"]}, Reason.CHECKPOINT_INVALID, "merges"),
    ],
)
def test_what_is_not_read_is_refused_by_its_key(
    tmp_path: Path, folder: Path, metadata: dict[str, Any], reason: Reason, words: str
) -> None:
    path = write_gguf(tmp_path / "model.gguf", folder, metadata=metadata)
    with pytest.raises(InvalidArgument, match=words) as caught:
        checkpoint = open_path(path)
        read_model(checkpoint.config)
        _ = checkpoint.tokenizer
    assert caught.value.reason is reason


def test_a_later_llama_with_a_window_is_a_mistral(tmp_path: Path, folder: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", folder, metadata={"llama.attention.sliding_window": 64})
    assert read_model(open_path(path).config).architecture.sliding_window == 64


def test_a_missing_tensor_and_one_too_many_are_named_as_the_file_names_them(tmp_path: Path, folder: Path) -> None:
    untied = write_gguf(tmp_path / "model.gguf", folder, tensors={"blk.0.attn_sinks.weight": np.ones(4, np.float32)})
    checkpoint = open_path(untied)
    with pytest.raises(InvalidArgument, match="attn_sinks"):
        ModelTensors(checkpoint.tensors, read_model(checkpoint.config)).check()
    more = open_path(write_gguf(tmp_path / "more.gguf", folder, metadata={"llama.block_count": 2}))
    with pytest.raises(InvalidArgument, match=r"tensor blk\.1\.attn_norm\.weight is missing from more\.gguf"):
        ModelTensors(more.tensors, read_model(more.config)).check()


def _cut(data: bytes) -> bytes:
    return data[:-100]


def _cut_in_header(data: bytes) -> bytes:
    return data[:1000]


def _no_magic(data: bytes) -> bytes:
    return b"GGML" + data[4:]


def _old(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", 1) + data[8:]


def _endless(data: bytes) -> bytes:
    return data[:16] + struct.pack("<Q", 2**60) + data[24:]


def _strange_type(data: bytes) -> bytes:
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    return data[:at] + struct.pack("<I", 4711) + data[at + 4 :]


def _not_finite(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<f", float("nan"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_cut, "cut off: tensor .* ends at byte"),
        (_cut_in_header, "cut off: its header"),
        (_no_magic, "no GGUF file"),
        (_old, "version 1"),
        (_endless, "cut off: its header"),
        (_strange_type, "tensor output_norm.weight has type 4711"),
        (lambda _: b"", "no GGUF file"),
        (_not_finite, "not finite"),
    ],
)
def test_a_broken_file_says_how(tmp_path: Path, folder: Path, spoil: Callable[[bytes], bytes], words: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", folder)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InvalidArgument, match=words) as caught:
        read_all(path)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID
    assert caught.value.metadata["file"] == "model.gguf"


def test_any_byte_of_the_header_may_be_wrong(tmp_path: Path, folder: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", folder)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for at in rng.integers(0, whole.index(b"output_norm.weight") + 60, 300):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :])
        with suppress(InvalidArgument):  # and nothing else
            read_all(path)


def read_all(path: Path) -> None:
    checkpoint = open_path(path)
    model = read_model(checkpoint.config)
    found = ModelTensors(checkpoint.tensors, model)
    found.check()
    _ = checkpoint.tokenizer, checkpoint.chat_templates, checkpoint.generation_config
    for name in found.names:
        found.tensor(name)


def test_a_big_endian_file_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidArgument, match="big-endian; convert it with gguf_convert_endian"):
        GgufCheckpoint(tmp_path / "big.gguf")


def test_a_type_that_cannot_be_read_is_named_before_anything_is_built(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "folder", layers=1, tokenizer=False)
    path = write_gguf(tmp_path / "model.gguf", source)
    data = path.read_bytes()
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + struct.pack("<I", GGMLQuantizationType.I32) + data[at + 4 :])
    checkpoint = open_path(path)
    with pytest.raises(InvalidArgument, match=r"blk\.0\.ffn_up\.weight in model\.gguf is I32, which is not read"):
        ModelTensors(checkpoint.tensors, read_model(checkpoint.config)).check()


def test_parts_that_are_missing_or_mixed_up_are_named(tmp_path: Path, folder: Path) -> None:
    first = write_gguf(tmp_path / "model.gguf", folder, parts=2)
    second = first.with_name("model-00002-of-00002.gguf")
    with pytest.raises(InvalidArgument, match="part 2 of 2; name the first, model-00001-of-00002.gguf"):
        open_path(second)
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(InvalidArgument, match="has split.no 0 and split.count 2; its name asks for 1 and 2"):
        open_path(first)
    second.unlink()
    with pytest.raises(NotFound, match="model-00002-of-00002.gguf"):
        open_path(first)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(kept)
    with pytest.raises(InvalidArgument, match="has split.no 1 and split.count 2; its name asks for 0 and 1"):
        open_path(alone)


def test_a_name_without_what_says_the_format() -> None:
    names = {"a.Q4_K_M.gguf": "a.Q4_K_M", "b-00001-of-00004.GGUF": "b", "folder": "folder"}
    assert {name: model_name(name) for name in names} == names
