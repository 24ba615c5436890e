"""Encodes what users write into tokens, never into control tokens.

A tokenizer matches its added tokens anywhere in a text, so a user who types `<|end|>` would end a turn.
So contents are encoded by a copy of the tokenizer without the control tokens: their text becomes ordinary
tokens. Control tokens are the special ones, and added ones that a template or the end of a turn uses.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from common.spec.manifest import TurnTemplate

_LONG = 10_000  # characters; shorter texts are encoded faster than a pool of threads is woken


class ContentEncoder:
    """Encodes contents. Safe to share between threads."""

    def __init__(self, tokenizer: dict[str, Any], control: frozenset[int]) -> None:
        """`tokenizer` is a parsed tokenizer.json, `control` what `control_tokens` says of it."""
        self._tokenizer = Tokenizer.from_str(json.dumps(_without(tokenizer, control)))
        self._longest = longest_token(tokenizer)
        self.control = control

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of `text` alone: nothing is put before or after it.

        Other threads go on meanwhile: `encode_batch_fast` gives up the interpreter's lock, `encode` does not.
        """
        if len(text) < _LONG:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoded.ids)

    def fewest(self, text: str) -> int:
        """How many tokens `text` has at least, without encoding it; 0 where nothing can be said."""
        return -(-len(text.encode()) // self._longest) if self._longest else 0


def control_tokens(tokenizer: dict[str, Any], used: Iterable[int]) -> frozenset[int]:
    """Added tokens that are special, or among the tokens `used` for control, such as a template's.

    Added tokens of white space, such as a line break, are ordinary text even where a template uses them.
    """
    control = set(used)
    return frozenset(
        token["id"]
        for token in tokenizer["added_tokens"]
        if token["special"] or (token["id"] in control and not token["content"].isspace())
    )


def longest_token(tokenizer: dict[str, Any]) -> int | None:
    """Most bytes of a text that one token stands for; None where that has no bound.

    Bounded are tokenizers that take no byte of a text away before they cut it and know every byte.
    """
    added = tokenizer["added_tokens"]
    vocabulary = tokenizer["model"]["vocab"]
    pieces = list(vocabulary) if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    cutting = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    byte_level = any(step["type"] == "ByteLevel" for step in cutting)
    known = set(ByteLevel.alphabet()) if byte_level else {f"<0x{byte:02X}>" for byte in range(256)}
    bounded = (
        all(_keeps_normalizing(step) for step in _steps(tokenizer.get("normalizer"), "normalizers"))
        and all(_keeps_cutting(step) for step in cutting)
        and not any(token["lstrip"] or token["rstrip"] for token in added)
        and (byte_level or tokenizer["model"].get("byte_fallback", False))
        and known.issubset(pieces)
    )
    if not bounded:
        return None
    ordinary = max(len(piece) if byte_level else len(piece.encode()) for piece in pieces)
    return max([ordinary, *(len(token["content"].encode()) for token in added)])


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[name] if part["type"] == "Sequence" else [part]


def _keeps_normalizing(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        pattern = step["pattern"].get("String")
        return pattern is not None and len(step["content"].encode()) >= len(pattern.encode())
    return bool(step["type"] == "Prepend")


def _keeps_cutting(step: dict[str, Any]) -> bool:
    return step["type"] in {"ByteLevel", "Metaspace", "Digits"} or (
        step["type"] == "Split" and step["behavior"] != "Removed"
    )


def template_tokens(template: TurnTemplate) -> frozenset[int]:
    """Every token of the parts of a template."""
    parts = (
        template.opening,
        template.system_before or (),
        template.system_after,
        template.user_before,
        template.first_user_before or (),
        template.system_user_before or (),
        template.user_after,
        template.assistant_before,
        template.earlier_before or (),
        template.assistant_after,
    )
    return frozenset(token for part in (*parts, *_tool_tokens(template)) for token in part)


def _tool_tokens(template: TurnTemplate) -> Iterator[tuple[int, ...]]:
    """Tokens of the forms of tools, and those that mark calls and reasoning."""
    tools, reasoning = template.tools, template.reasoning
    markers = [reasoning.opens, reasoning.closes] if reasoning else []
    if tools is not None:
        results = tools.results
        openings = [opening.form for opening in (tools.opening, tools.system_opening) if opening is not None]
        for form in (*openings, results.before, results.result, results.between or (), results.after):
            yield from (part.tokens for part in form)
        markers += [marker for marker in (tools.calls.opens, tools.calls.closes) if marker is not None]
    yield from ((marker.token_id,) for marker in markers if marker.token_id is not None)


def _without(tokenizer: dict[str, Any], control: frozenset[int]) -> dict[str, Any]:
    """The same tokenizer, in which no text leads to the tokens `control`.

    Removing tokens would move the ids of others (an added token that the model does not have gets the next id), so they
    keep their ids and are renamed to random names that nobody can guess.
    """
    secret = secrets.token_hex(16)
    names = {
        token["content"]: f"{secret}.{token['id']}" for token in tokenizer["added_tokens"] if token["id"] in control
    }
    return tokenizer | {
        "added_tokens": [
            token | {"content": names.get(token["content"], token["content"])} for token in tokenizer["added_tokens"]
        ],
        "model": _renamed(tokenizer["model"], names),
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }


def _renamed(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Control tokens often are in the model's vocabulary too, where a text could reach them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [[piece, score], ...]
        return model | {"vocab": [[names.get(piece, piece), score] for piece, score in vocabulary]}
    changed: dict[str, Any] = {"vocab": {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}}
    if "merges" in model:
        changed["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint(_pieces(merge))]
    if model.get("unk_token") in names:
        changed["unk_token"] = names[model["unk_token"]]
    return model | changed


def _pieces(merge: str | list[str]) -> tuple[str, str, str]:
    """Both sides of a merge and what it makes; older files have them as one text."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right
