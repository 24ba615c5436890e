"""A checkpoint's tokenizer: its tokenizer.json, and the special tokens that other files name.

Knows nothing of turns. What has no tokenizer.json is converted by transformers, whose import is slow and therefore
waits until it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from builder_service.checkpoint.files import invalid
from common.spec.manifest import TOKENIZER_PATH

TOKENIZER_CONFIG = "tokenizer_config.json"
_SEVERAL = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")


@dataclass(frozen=True)
class TokenizerDescription:
    """A tokenizer as its checkpoint describes it."""

    tokenizer: dict[str, Any]
    """tokenizer.json, parsed, in the library's current form and with every special token that other files name."""
    library: Tokenizer
    """The same, loaded."""
    source: bytes
    """The same as bytes: the original ones if nothing was changed."""
    special: dict[str, str | list[str]]
    """Special tokens by name, such as `bos_token`: the variables of a chat template."""
    adds_bos: bool | None
    """Whether texts begin with the begin token; None: as tokenizer.json does it."""

    def with_special(self, contents: Collection[str]) -> TokenizerDescription:
        """The same, with the added tokens of these `contents` special."""
        added = [
            token | {"special": True} if token["content"] in contents else token
            for token in self.tokenizer["added_tokens"]
        ]
        tokenizer = self.tokenizer | {"added_tokens": added}
        return replace(self, tokenizer=tokenizer, library=_checked(tokenizer), source=dumped(tokenizer))


def describe_tokenizer(
    source: bytes, config: Mapping[str, Any], special_tokens: Mapping[str, Any]
) -> TokenizerDescription:
    """From a tokenizer.json and what stands in tokenizer_config.json and special_tokens_map.json.

    Raises InvalidArgument (CHECKPOINT_INVALID) naming the file for one that cannot be read.
    """
    special = _special_tokens(special_tokens) | _special_tokens(config)
    library = _load(source)
    current = json.loads(library.to_str())
    tokenizer = _with_special(current, config, special)
    return TokenizerDescription(
        tokenizer=tokenizer,
        library=library if tokenizer == current else _checked(tokenizer),
        source=source if tokenizer == json.loads(source) else dumped(tokenizer),
        special=special,
        adds_bos=config.get("add_bos_token"),
    )


def convert_tokenizer(folder: Path) -> bytes:
    """A tokenizer.json made of a folder's other files. Raises InvalidArgument (CHECKPOINT_INVALID)."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds that most builds need not wait

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return bytes(found.backend_tokenizer.to_str().encode())
    except Exception as error:
        message = f"the tokenizer has no {TOKENIZER_PATH} and cannot be converted: {error}"
        raise invalid(message, file=TOKENIZER_PATH) from error


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Named special tokens; an entry is a text, a token with its `content`, or several of either in a list or by name.

    transformers 5 has one field for what earlier ones had in two.
    """
    found: dict[str, str | list[str]] = {}
    for name, value in config.items():
        if name in _SEVERAL and isinstance(value, dict):
            found |= {inner: text for inner, token in value.items() if (text := _content(token))}
        elif name in _SEVERAL and isinstance(value, list):
            found[name] = [text for text in map(_content, value) if text]
        elif name.endswith("_token") and (text := _content(value)):
            found[name] = text
    return found


def _content(value: Any) -> str | None:  # noqa: ANN401 - whatever stands in a JSON file
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _with_special(
    tokenizer: dict[str, Any], config: Mapping[str, Any], special: Mapping[str, str | list[str]]
) -> dict[str, Any]:
    """Add the tokens of the other files, and make the named ones special, as transformers does."""
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    for token_id, token in sorted(_declared(config).items()):
        added.setdefault(token["content"], _PLAIN | token | {"id": token_id})
    vocabulary = tokenizer["model"]["vocab"]
    known = vocabulary if isinstance(vocabulary, dict) else {entry[0]: at for at, entry in enumerate(vocabulary)}
    for text in _flat(special):
        if text in added:
            added[text] = added[text] | {"special": True}
        elif text in known:
            added[text] = _PLAIN | {"id": known[text], "content": text, "special": True}
    return tokenizer | {"added_tokens": sorted(added.values(), key=lambda token: int(token["id"]))}


def _declared(config: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Tokens of `added_tokens_decoder`, by id."""
    declared = config.get("added_tokens_decoder") or {}
    try:
        found = {int(token_id): token for token_id, token in declared.items()}
        wrong = [token for token in found.values() if not isinstance(token["content"], str)]
    except (AttributeError, KeyError, TypeError, ValueError):
        wrong = [declared]
    if wrong:
        message = f"{TOKENIZER_CONFIG} has in added_tokens_decoder {wrong[0]!r:.80}; "
        message += "objects with a text `content`, by id, are needed"
        raise invalid(message, file=TOKENIZER_CONFIG)
    return found


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def _flat(special: Mapping[str, str | list[str]]) -> list[str]:
    return [text for value in special.values() for text in ([value] if isinstance(value, str) else value)]


def _checked(tokenizer: dict[str, Any]) -> Tokenizer:
    """Load the tokenizer; raise unless the library, which numbers added tokens itself, gives them the ids in the
    files.
    """
    loaded = _load(dumped(tokenizer))
    for token in tokenizer["added_tokens"]:
        found = loaded.token_to_id(token["content"])
        if found != token["id"]:
            message = f"{TOKENIZER_PATH}: added token {token['content']!r} has id {token['id']}, but loads as {found}"
            raise invalid(message, file=TOKENIZER_PATH)
    return loaded


def _load(data: bytes) -> Tokenizer:
    """Load a tokenizer.json, without any truncation or padding that was left in it."""
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower
        message = f"{TOKENIZER_PATH} cannot be read: {error}"
        raise invalid(message, file=TOKENIZER_PATH) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def dumped(tokenizer: dict[str, Any]) -> bytes:
    """Bytes of a tokenizer.json."""
    return json.dumps(tokenizer, ensure_ascii=False).encode()
