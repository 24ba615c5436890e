"""From the tokens of one reply to text, a token at a time, whole characters only.

Knows bytes and UTF-8; knows nothing of stop texts or of turns. The texts put together are those of the whole
sequence decoded at once. A character that is not complete yet waits; bytes that can no longer become one give
U+FFFD, as everywhere. What is incomplete when a reply ends never became text and is left out; its token ids and
bytes are reported all the same.
"""

from __future__ import annotations

import codecs

from common.text.vocabulary import Vocabulary


class Detokenizer:
    """Life: one reply, token by token. Work per token does not depend on those before."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = vocabulary.leading_spaces

    def push(self, token_id: int) -> str:
        """Text that this token completes. Special tokens have none."""
        if token_id in self._vocabulary.special:
            return ""
        text = self._decoder.decode(self._vocabulary.token_bytes(token_id))
        return self._without_leading(text) if self._strip and text else text

    def _without_leading(self, text: str) -> str:
        """The dummy space that sentencepiece puts before a text is not part of it."""
        rest = text
        while self._strip and rest.startswith(" "):
            rest = rest[1:]
            self._strip -= 1
        if rest:
            self._strip = 0
        return rest
