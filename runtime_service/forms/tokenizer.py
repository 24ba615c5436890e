"""What llguidance has to know of an engine's tokens: the bytes of each, which have no text, and which end a reply.

The bytes are those of the detokenizer, so that what is allowed and what is read are the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from common.text.vocabulary import Vocabulary


def make_tokenizer(
    vocabulary: Vocabulary, size: int, ends: Sequence[int], control: Collection[int] = ()
) -> LLTokenizer:
    """For `size` token ids, of which `ends` end a reply, and `control` are no text though they may have one.

    Takes 0.1 to 5 s and holds Python's lock all the while.
    Without ends there is one more token, which no engine has: a mask without any token of the engine says the same.
    """
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary, size, ends, control)), eos_token=list(ends) or [size])


def special_texts(vocabulary: Vocabulary, size: int, control: Collection[int]) -> dict[int, str]:
    """How a grammar may name tokens that are no text."""
    ids = [token for token in sorted({*vocabulary.special, *control}) if token < size]
    return {token: text for token in ids if (text := vocabulary.token_bytes(token).decode(errors="replace"))}


class _Tokens:
    """As `TokenizerWrapper` asks for it; called with bytes, gives tokens that are those bytes."""

    def __init__(self, vocabulary: Vocabulary, size: int, ends: Sequence[int], control: Collection[int]) -> None:
        count = size if ends else size + 1
        self.tokens = [vocabulary.token_bytes(token) or b"<|no text %d|>" % token for token in range(count)]
        silent = {token for token in range(count) if not vocabulary.token_bytes(token)}
        special = silent | {token for token in {*vocabulary.special, *control} if token < size} | {*ends}
        self.special_token_ids = sorted(special)
        self.eos_token_id = ends[0] if ends else size
        self.bos_token_id = None
        self._ids = {data: token for token, data in enumerate(self.tokens) if token not in special}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: bytes) -> list[int]:
        """The longest token first, again and again; none where a byte has no token."""
        found, start = [], 0
        while start < len(text):
            pieces = (text[start : start + length] for length in range(self._longest, 0, -1))
            if (piece := next((piece for piece in pieces if piece in self._ids), None)) is None:
                return []
            found.append(self._ids[piece])
            start += len(piece)
        return found
