"""Tokenizers without a tokenizer.json give the tokens of their own libraries."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.checkpoint.sentencepiece_model import SAMPLES
from common.errors import InvalidArgument
from tests.samples.tokenizers import TEXT

OTHERS = ("", " ", "a", "ﬁ ½ Å 한국어", "\t\n \n", "x" * 300)


def _train(folder: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<think>"],
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(("rule", "shortens"), [("identity", False), ("nmt_nfkc", True)])
def test_a_sentencepiece_model_alone_gives_its_own_tokens(
    tmp_path: Path, kind: str, prefix: bool, rule: str, shortens: bool
) -> None:
    own = _train(
        tmp_path,
        model_type=kind,
        add_dummy_prefix=prefix,
        normalization_rule_name=rule,
        remove_extra_whitespaces=shortens,
    )
    described = FolderCheckpoint(tmp_path).tokenizer
    assert described
    assert (described.special, described.adds_bos) == ({"bos_token": "<s>", "eos_token": "</s>"}, True)
    symbols = () if prefix or shortens else ("a <think> b",)  # otherwise the library begins anew behind them
    for text in (*SAMPLES, *OTHERS, *symbols):
        assert described.library.encode(text, add_special_tokens=False).ids == own.encode(text), text


def test_what_is_no_sentencepiece_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InvalidArgument, match=r"tokenizer\.model is not a sentencepiece model"):
        _ = FolderCheckpoint(tmp_path).tokenizer


def _tekken(pieces: list[bytes], special: int = 5) -> dict[str, Any]:
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(piece).decode()} for rank, piece in enumerate(pieces)]
    named = [{"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}, {"rank": 3, "token_str": "[INST]"}]
    config = {
        "pattern": r"\p{L}+| ?\d|\s+|[^\s\p{L}\d]+",
        "default_vocab_size": len(pieces) + special - 1,  # the last is not used
        "default_num_special_tokens": special,
    }
    return {"config": config, "vocab": vocab, "special_tokens": named}


def test_tekken_gives_its_ranks_behind_the_special_tokens(tmp_path: Path) -> None:
    pieces = [*(bytes([byte]) for byte in range(256)), b"he", b"ll", b"hell", b"hello", b"lo", b"unused"]
    (tmp_path / "tekken.json").write_text(json.dumps(_tekken(pieces)))
    described = FolderCheckpoint(tmp_path).tokenizer
    assert described
    tokenizer: Tokenizer = described.library
    ranks = {piece: rank + 5 for rank, piece in enumerate(pieces)}
    assert tokenizer.encode("hello help").ids == [ranks[b"hello"], ranks[b" "], ranks[b"he"], ranks[b"l"], ranks[b"p"]]
    assert tokenizer.encode("é").ids == [ranks[b"\xc3"], ranks[b"\xa9"]]
    assert tokenizer.encode("<s>[INST]").ids == [1, 3]
    assert tokenizer.token_to_id("unused") is None
    assert described.special == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("text", ["{}", '{"config": 5, "vocab": []}'])
def test_what_is_no_tekken_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "tekken.json").write_text(text)
    with pytest.raises(InvalidArgument, match=r"tekken\.json cannot be converted"):
        _ = FolderCheckpoint(tmp_path).tokenizer
