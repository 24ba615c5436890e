import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from common.text.vocabulary import Vocabulary
from runtime_service.decoding.detokenizer import Detokenizer
from tests.samples import vocabularies

TOKENIZERS = {
    "byte_level": vocabularies.byte_level(),
    "sentencepiece": vocabularies.sentencepiece(),
    "unigram": vocabularies.unigram(),
}
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
VOCABULARIES = {kind: Vocabulary(json.loads(data)) for kind, data in TOKENIZERS.items()}


def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer.from_str(TOKENIZERS[kind].decode())


def said(kind: str, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(VOCABULARIES[kind])
    return [detokenizer.push(token) for token in tokens]


@KINDS
@given(text=st.text(st.characters(exclude_characters=REPLACEMENT, codec="utf-8")))
def test_the_pieces_put_together_are_the_text_decoded_at_once(kind: str, text: str) -> None:
    tokens = tokenizer(kind).encode(text, add_special_tokens=False).ids
    pieces = said(kind, tokens)
    assert REPLACEMENT not in "".join(pieces)
    whole = tokenizer(kind).decode(tokens)
    if kind == "unigram":  # Metaspace decodes every leading space of the first piece to nothing; ours only one
        assert "".join(pieces).lstrip(" ") == whole.lstrip(" ")
    else:
        assert "".join(pieces) == whole


@KINDS
@given(data=st.data())
def test_any_tokens_give_what_their_bytes_decode_to(kind: str, data: st.DataObject) -> None:
    size = tokenizer(kind).get_vocab_size()
    tokens = data.draw(st.lists(st.integers(0, size - 1)))
    vocabulary = VOCABULARIES[kind]
    raw = b"".join(vocabulary.token_bytes(token) for token in tokens if token not in vocabulary.special)
    raw = raw[1:] if vocabulary.leading_spaces and raw.startswith(b" ") else raw
    whole = raw.decode("utf-8", "replace")
    text = "".join(said(kind, tokens))
    assert whole.startswith(text)
    assert whole.removeprefix(text) in ("", REPLACEMENT, REPLACEMENT * 2, REPLACEMENT * 3)  # an incomplete end


def test_a_character_comes_whole_with_its_last_byte() -> None:
    """🙂 is F0 9F 99 82: four tokens, one character."""
    tokens = [tokenizer("sentencepiece").token_to_id(f"<0x{byte:02X}>") or 0 for byte in "🙂é".encode()]
    assert said("sentencepiece", tokens) == ["", "", "", "🙂", "", "é"]


def test_an_incomplete_character_at_the_end_is_left_out() -> None:
    token = tokenizer("sentencepiece").token_to_id("<0xF0>") or 0
    assert said("sentencepiece", [token]) == [""]


def test_bytes_that_can_be_no_character_are_replaced_when_that_is_sure() -> None:
    find = tokenizer("sentencepiece").token_to_id
    tokens = [find("<0xF0>") or 0, find("a") or 0, find("<0xFF>") or 0]
    assert said("sentencepiece", tokens) == ["", REPLACEMENT + "a", REPLACEMENT]


def test_special_tokens_have_no_text() -> None:
    end = vocabularies.END
    hello = tokenizer("byte_level").encode("Hello").ids
    assert "".join(said("byte_level", [end, *hello, end])) == "Hello"


def test_added_tokens_that_are_not_special_are_text() -> None:
    think = tokenizer("byte_level").token_to_id(vocabularies.THINK) or 0
    assert said("byte_level", [think]) == ["<think>"]


def test_the_dummy_space_before_a_text_is_left_out_once() -> None:
    tokens = tokenizer("sentencepiece").encode(" Hello there").ids
    assert "".join(said("sentencepiece", tokens)) == " Hello there"


def test_ids_that_only_pad_the_vocabulary_have_no_text() -> None:
    assert said("byte_level", [10**6]) == [""]
