import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from common.errors import InvalidArgument, Reason
from common.text.vocabulary import Vocabulary
from tests.samples import vocabularies

TOKENIZERS = {
    "byte_level": vocabularies.byte_level(),
    "sentencepiece": vocabularies.sentencepiece(),
    "unigram": vocabularies.unigram(),
}
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


def token_id(kind: str, token: str) -> int:
    found = Tokenizer.from_str(TOKENIZERS[kind].decode()).token_to_id(token)
    assert found is not None
    return found


def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(json.loads(TOKENIZERS[kind]))


@KINDS
@given(text=st.text())
def test_the_bytes_of_tokens_put_together_are_the_text(kind: str, text: str) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS[kind].decode())
    for token in tokenizer.get_added_tokens_decoder().values():
        text = text.replace(token.content, "")
    subject = vocabulary(kind)
    said = b"".join(subject.token_bytes(one) for one in tokenizer.encode(text, add_special_tokens=False).ids)
    if kind == "unigram":  # Metaspace puts no space before a text that begins with one
        assert said.removeprefix(b" ") == text.encode().removeprefix(b" ")
    else:
        assert said == b" " * (subject.leading_spaces if text else 0) + text.encode()


def test_a_lone_byte_is_that_byte() -> None:
    assert vocabulary("sentencepiece").token_bytes(token_id("sentencepiece", "<0xE2>")) == b"\xe2"


def test_added_tokens_are_their_own_text() -> None:
    subject = vocabulary("byte_level")
    assert subject.token_bytes(vocabularies.END) == b"<|end|>"
    assert subject.token_bytes(token_id("byte_level", vocabularies.THINK)) == b"<think>"


def test_special_tokens_are_known_and_other_added_ones_are_text() -> None:
    assert vocabulary("byte_level").special == frozenset(range(5))


def test_an_added_token_outside_ascii_is_its_utf_8() -> None:
    data = json.loads(TOKENIZERS["byte_level"])
    data["added_tokens"].append({"id": 9000, "content": "<é>", "special": True})
    assert Vocabulary(data).token_bytes(9000) == "<é>".encode()


def test_ids_that_only_pad_the_vocabulary_have_no_bytes() -> None:
    assert vocabulary("byte_level").token_bytes(10**6) == b""


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (None, "none"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "BPEDecoder"}]}, "BPEDecoder"),
        ({"type": "Replace", "pattern": {"Regex": "x+"}, "content": " "}, "regular expression"),
        ({"type": "Sequence", "decoders": [{"type": "Strip", "content": "x", "start": 1, "stop": 0}]}, "Strip"),
    ],
)
def test_other_decoders_are_refused_by_name(decoder: dict[str, Any] | None, named: str) -> None:
    data = json.loads(TOKENIZERS["byte_level"]) | {"decoder": decoder}
    with pytest.raises(InvalidArgument, match=named) as caught:
        Vocabulary(data)
    assert caught.value.reason == Reason.CHECKPOINT_INVALID
