"""From what people say to tokens, never to control tokens.

A tokenizer matches its added tokens wherever their text stands, so somebody who types `<|end|>` would end a turn.
Contents are therefore encoded by a copy of the tokenizer that does not know the control tokens: their text becomes
ordinary tokens. Control tokens are the special ones, and added ones that a template or the end of a turn uses.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

from common.manifest import TurnTemplate


class ContentEncoder:
    """Encodes contents. Safe to share between threads."""

    def __init__(self, tokenizer: dict[str, Any], control: frozenset[int]) -> None:
        """`tokenizer` is a parsed tokenizer.json, `control` what `control_tokens` says of it."""
        self._tokenizer = Tokenizer.from_str(json.dumps(_without(tokenizer, control)))

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of `text` alone: nothing is put before or after it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


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


def template_tokens(template: TurnTemplate) -> frozenset[int]:
    """Every token of the parts of a template."""
    parts = (
        template.opening,
        template.system_before or (),
        template.system_after,
        template.user_before,
        template.user_after,
        template.assistant_before,
        template.assistant_after,
    )
    return frozenset(token for part in parts for token in part)


def _without(tokenizer: dict[str, Any], control: frozenset[int]) -> dict[str, Any]:
    """The same tokenizer, in which no text leads to the tokens `control`.

    Taking tokens out would move the ids of others (an added token that the model does not have gets the next id),
    so they stay where they are and are given names that nobody can type: nobody can guess them.
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
