"""Vocabularies of GGUF files become tokenizers that give the same tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from builder_service.checkpoint.gguf.tokenizer import end_token_ids, read_tokenizer
from tests.samples.tokenizers import TEXT

SAMPLES = (*TEXT, "hello hello", "  two  spaces ", "a\nb", "日本 🙂", "")


def _sentencepiece(*, prefix: bool) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer as sentencepiece's BPE has it, and the GGUF keys that describe it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    special = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *pieces], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in special]
    back: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    rebuilt = Tokenizer.from_str(json.dumps(description))
    rebuilt.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    tokens = sorted(description["model"]["vocab"], key=description["model"]["vocab"].get)
    rank = {"".join(pair): -float(at) for at, pair in enumerate(description["model"]["merges"])}
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    keys = {
        "model": "llama",
        "tokens": tokens,
        "scores": [rank.get(token, -1e6) for token in tokens],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_space_prefix": prefix,
    }
    return rebuilt, {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize("prefix", [True, False])
def test_merges_follow_from_the_scores_of_sentencepiece(prefix: bool) -> None:
    original, keys = _sentencepiece(prefix=prefix)
    described = read_tokenizer(keys, "model.gguf")
    assert described is not None
    for text in SAMPLES:
        ids = original.encode(text, add_special_tokens=False).ids
        assert described.library.encode(text, add_special_tokens=False).ids == ids, text
        assert described.library.decode(ids) == original.decode(ids), text
    assert described.adds_bos is True
    assert described.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _byte_level(pre: str, **keys: Any) -> dict[str, Any]:
    letters = [chr(code) for code in (*range(33, 127), 0x120, 0x10A, *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    tokens = [*letters, "12", "123", "<|eot|>", "think"]
    own = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [*[1] * (len(tokens) - 2), 3, 4],
        "merges": ["1 2", "12 3"],
        **keys,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in own.items()}


@pytest.mark.parametrize(
    ("pre", "pieces", "adds_bos"),
    [
        ("smollm", ["1", "2", "3", "4"], False),
        ("gpt-2", ["123", "4"], False),
        ("llama-bpe", ["123", "4"], True),
        ("dbrx", ["123", "4"], False),
        ("refact", ["1", "2", "3", "4"], False),
        ("qwen2", ["1", "2", "3", "4"], False),
    ],
)
def test_digits_are_cut_as_the_pre_tokenizer_says(pre: str, pieces: list[str], adds_bos: bool) -> None:
    described = read_tokenizer(_byte_level(pre), "model.gguf")
    assert described is not None
    assert described.library.encode("1234").tokens == pieces
    assert described.adds_bos is adds_bos


def test_qwen_composes_letters_which_no_key_says() -> None:
    """Both write the letter ä; one as a and two dots."""
    described = read_tokenizer(_byte_level("qwen2"), "model.gguf")
    assert described is not None
    assert described.library.encode("a\u0308").ids == described.library.encode("\u00e4").ids


def test_types_say_what_is_special_and_what_is_only_added() -> None:
    described = read_tokenizer(_byte_level("qwen2", add_bos_token=True), "model.gguf")
    assert described is not None
    assert {token["content"]: token["special"] for token in described.tokenizer["added_tokens"]} == {
        "<|eot|>": True,
        "think": False,
    }
    assert described.adds_bos is True


def test_all_tokens_that_end_a_reply_are_found() -> None:
    keys = {"eos_token_id": 7, "eot_token_id": 9, "eom_token_id": 7}
    assert end_token_ids({f"tokenizer.ggml.{key}": value for key, value in keys.items()}) == [7, 9]


def test_a_file_without_a_vocabulary_has_no_tokenizer() -> None:
    assert read_tokenizer({}, "model.gguf") is None
