"""The bytes of every token, from `tokenizer.json`.

Byte-level vocabularies (GPT-2 and its heirs) write a byte as one printable character; sentencepiece ones write a
space as a lower block and a lone byte as `<0xE2>`. Any other way to decode is refused, naming it. Knows nothing of
encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument, Reason

NO_TOKENIZER: dict[str, Any] = {"added_tokens": [], "model": {"vocab": {}}, "decoder": {"type": "ByteLevel"}}
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class _Decoding:
    """What the decoder of a tokenizer.json does to one token, and to the beginning of a text."""

    token: Callable[[str], bytes]
    added: Callable[[str], bytes]
    leading_spaces: int


class Vocabulary:
    """Bytes of tokens. `special` are ids that are never text; `leading_spaces` are spaces that the tokenizer adds
    before a text.
    """

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        """`tokenizer` is a parsed tokenizer.json. Raises InvalidArgument (CHECKPOINT_INVALID)."""
        decoding = _decoding(tokenizer.get("decoder"))
        self._bytes = {token_id: decoding.token(piece) for token_id, piece in pieces(tokenizer)}
        self._bytes |= {token["id"]: decoding.added(token["content"]) for token in tokenizer["added_tokens"]}
        self.special = frozenset(token["id"] for token in tokenizer["added_tokens"] if token["special"])
        self.leading_spaces = decoding.leading_spaces

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, not always whole characters; none for an id that only pads the vocabulary."""
        return self._bytes.get(token_id, b"")


def pieces(tokenizer: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Id and piece of every token of the model, without the added ones."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from ((token_id, piece) for piece, token_id in vocabulary.items())
    else:  # Unigram: [[piece, score], ...]
        yield from ((token_id, entry[0]) for token_id, entry in enumerate(vocabulary))


def _decoding(decoder: dict[str, Any] | None) -> _Decoding:
    steps = list(_steps(decoder))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _Decoding(_byte_level, str.encode, 0)
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return _sentencepiece(steps, kinds)
    raise _unsupported(" and ".join(kinds) or "none")


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _steps(part)
    else:
        yield decoder


def _sentencepiece(steps: list[dict[str, Any]], kinds: list[str]) -> _Decoding:
    replaced = [_replacement(step) for step in steps if step["type"] in {"Replace", "Metaspace"}]
    bytewise = "ByteFallback" in kinds

    def token(piece: str) -> bytes:
        byte = _BYTE.fullmatch(piece) if bytewise else None
        if byte:
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    return _Decoding(token, token, sum(_leading(step) for step in steps))


def _replacement(step: dict[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise _unsupported("Replace with a regular expression")
    return step["pattern"]["String"], step["content"]


def _leading(step: dict[str, Any]) -> int:
    if step["type"] == "Metaspace":
        return int(step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
    if step["type"] != "Strip":
        return 0
    if step["content"] != " " or step["stop"]:
        raise _unsupported("Strip of anything but leading spaces")
    return int(step["start"])


def _unsupported(what: str) -> InvalidArgument:
    message = f"tokenizer.json: decoder is {what}; supported are ByteLevel, and Metaspace or Replace with ByteFallback"
    return InvalidArgument(Reason.CHECKPOINT_INVALID, message, decoder=what)


def _byte_level(piece: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in piece])
    except KeyError:
        return piece.encode()


def byte_characters() -> dict[str, int]:
    """GPT-2's `bytes_to_unicode`, inverted: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = byte_characters()
