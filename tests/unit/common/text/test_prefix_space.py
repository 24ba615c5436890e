import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from common.text.prefix_space import keeping_spaces, without_prefix_space
from common.text.vocabulary import Vocabulary
from tests.samples import vocabularies

TOKENIZERS = {"sentencepiece": vocabularies.sentencepiece(), "unigram": vocabularies.unigram()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.characters(exclude_characters="▁<", codec="utf-8")))
def test_a_text_goes_to_tokens_and_back_without_a_space_more(kind: str, text: str) -> None:
    plain = keeping_spaces(without_prefix_space(json.loads(TOKENIZERS[kind])))
    tokens = Tokenizer.from_str(json.dumps(plain)).encode(text, add_special_tokens=False).ids
    vocabulary = Vocabulary(plain)
    assert b"".join(map(vocabulary.token_bytes, tokens)) == text.encode()
    assert vocabulary.leading_spaces == 0


def test_a_tokenizer_that_puts_none_stays_as_it_is() -> None:
    tokenizer = json.loads(vocabularies.byte_level())
    assert without_prefix_space(tokenizer) == tokenizer


def test_a_byte_level_one_can_put_one_too() -> None:
    step = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    tokenizer = json.loads(vocabularies.byte_level()) | {"pre_tokenizer": step}
    plain = Tokenizer.from_str(json.dumps(without_prefix_space(tokenizer)))
    assert plain.encode("Hello").tokens == ["Hello"]


def test_what_strips_on_purpose_stays() -> None:
    tokenizer = json.loads(vocabularies.byte_level()) | {"normalizer": {"type": "Strip", "strip_left": True}}
    assert without_prefix_space(tokenizer) == tokenizer
