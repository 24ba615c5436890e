"""Converts Mistral's `tekken.json` to a tokenizer.json.

Source: mistral-common, `tokens/tokenizers/tekken.py`.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from builder_service.checkpoint.files import invalid, read_json
from common.text.vocabulary import byte_characters

CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
"""What a tokenizer_config.json would say."""


def convert_tekken(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer.json of the same tokens, and what its tokenizer_config.json would say.

    Raises InvalidArgument (CHECKPOINT_INVALID).
    """
    parsed = read_json(path)
    try:
        return _converted(parsed).to_str().encode(), dict(CONFIG)
    except Exception as error:
        raise invalid(f"{path.name} cannot be converted to a tokenizer.json: {error!r}", file=path.name) from error


def _converted(parsed: dict[str, Any]) -> Tokenizer:
    config = parsed["config"]
    special = _special(parsed, config["default_num_special_tokens"])
    ordinary = parsed["vocab"][: config["default_vocab_size"] - len(special)]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in ordinary}
    ids = {_written(piece): rank + len(special) for piece, rank in ranks.items()}
    names = {text: token for token, text in enumerate(special)}
    tokenizer = Tokenizer(models.BPE({**names, **ids}, _merges(ranks), ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(config["pattern"]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return tokenizer


def _special(parsed: dict[str, Any], count: int) -> list[str]:
    """The special tokens, which have the first ids; those without a name only fill up."""
    named = {entry["rank"]: entry["token_str"] for entry in parsed.get("special_tokens") or ()}
    return [named.get(token, f"<SPECIAL_{token}>") for token in range(count)]


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Pairs that become a token, the token of the lowest rank first."""
    pairs = [
        (piece[:at], piece[at:])
        for piece in ranks
        for at in range(1, len(piece))
        if piece[:at] in ranks and piece[at:] in ranks
    ]
    pairs.sort(key=lambda pair: (ranks[pair[0] + pair[1]], ranks[pair[0]], ranks[pair[1]]))
    return [(_written(left), _written(right)) for left, right in pairs]


def _written(piece: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in piece)


_CHARACTERS = {byte: character for character, byte in byte_characters().items()}
