"""A GGUF's vocabulary as a tokenizer.json, in the form of the `tokenizers` library.

Byte-level vocabularies come with their merges and the name of a pre-tokenizer, sentencepiece ones with scores, from
which the merges follow: every split of a token into two others, that of the highest score first.

Source: llama.cpp, `llama-vocab.cpp`; ggml's docs/gguf.md, "Tokenizer".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from builder_service.checkpoint.files import invalid
from builder_service.checkpoint.tokenizer import TokenizerDescription, describe_tokenizer

Metadata = Mapping[str, Any]
_KEY = "tokenizer.ggml."
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_NAMED = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False}


def _split(digits: str) -> dict[str, Any]:
    """Llama 3's rule, and Qwen 2's, which differs in how many digits stay together."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


_GPT2 = _BYTE_LEVEL | {"use_regex": True}
_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2]}
_THREE_DIGITS = _split(r"\p{N}{1,3}")
_NFC = {"type": "NFC"}  # which no key of a GGUF says
_PRE: Mapping[str, dict[str, Any]] = {
    **{name: {"pre_tokenizer": _GPT2} for name in ("gpt-2", "phi-2", "olmo", "exaone4")},
    **{name: {"pre_tokenizer": _DIGITS} for name in ("smollm", "starcoder", "refact")},
    **{name: {"pre_tokenizer": _THREE_DIGITS} for name in ("dbrx", "smaug-bpe")},
    "command-r": {"pre_tokenizer": _DIGITS, "normalizer": _NFC},
    "glm4": {"pre_tokenizer": _THREE_DIGITS, "ignore_merges": True},
    "llama-bpe": {"pre_tokenizer": _THREE_DIGITS, "ignore_merges": True, "adds_bos": True},
    "qwen2": {"pre_tokenizer": _split(r"\p{N}"), "normalizer": _NFC},
}
"""What each pre-tokenizer is, by `tokenizer.ggml.pre`."""


def read_tokenizer(metadata: Metadata, file: str) -> TokenizerDescription | None:
    """None if the file has no vocabulary. Raises InvalidArgument (CHECKPOINT_INVALID) for one that is not read."""
    model = metadata.get(f"{_KEY}model")
    if model is None or model == "no_vocab":
        return None
    tokens, kinds = _tokens(metadata, file)
    if model == "gpt2":
        described, adds_bos = _byte_level(metadata, tokens, file)
    elif model == "llama":
        described, adds_bos = _sentencepiece(metadata, tokens, kinds, file), True
    else:
        message = f"{file} has a tokenizer of kind {model!r:.80}; gpt2 (byte-level) and llama (sentencepiece) are read"
        raise invalid(message, file=file)
    added = [
        _ADDED | {"id": at, "content": tokens[at], "normalized": False, "special": kind != _USER_DEFINED}
        for at, kind in enumerate(kinds)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    source = json.dumps({"version": "1.0", "added_tokens": added, **described}, ensure_ascii=False).encode()
    config = {name: tokens[at] for key, name in _NAMED.items() if (at := _token_id(metadata, key, tokens)) is not None}
    return describe_tokenizer(source, config | {"add_bos_token": metadata.get(f"{_KEY}add_bos_token", adds_bos)}, {})


def end_token_ids(metadata: Metadata) -> list[int]:
    """Tokens that end a reply."""
    found = (metadata.get(_KEY + key) for key in _ENDS)
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


def _tokens(metadata: Metadata, file: str) -> tuple[list[str], list[int]]:
    """Every token and its type, by id."""
    tokens = metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise invalid(f"{file} has a tokenizer without {_KEY}tokens", file=file)
    kinds = metadata.get(f"{_KEY}token_type", [1] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise invalid(f"{file} has {len(tokens)} tokens, and {_KEY}token_type is not as long", file=file)
    if len(set(tokens)) != len(tokens):
        raise invalid(f"{file} has the same token twice in {_KEY}tokens", file=file)
    return tokens, kinds


def _token_id(metadata: Metadata, key: str, tokens: list[str]) -> int | None:
    found = metadata.get(_KEY + key)
    return found if isinstance(found, int) and 0 <= found < len(tokens) else None


def _byte_level(metadata: Metadata, tokens: list[str], file: str) -> tuple[dict[str, Any], bool]:
    """The parts of tokenizer.json, and whether texts begin with the begin token unless the file says otherwise."""
    name = str(metadata.get(f"{_KEY}pre"))
    if name not in _PRE:
        message = f"{file} has {_KEY}pre = {name!r:.80}, which is not known here; {', '.join(_PRE)} are"
        raise invalid(message, file=file)
    pre = _PRE[name]
    merges = metadata.get(f"{_KEY}merges", [])
    pairs = [merge.split(" ", 1) for merge in merges if isinstance(merge, str)]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise invalid(f"{file} has {_KEY}merges that are not pairs of tokens", file=file)
    return {
        "normalizer": pre.get("normalizer"),
        "pre_tokenizer": pre["pre_tokenizer"],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(tokens, pairs, ignore_merges=pre.get("ignore_merges", False)),
    }, pre.get("adds_bos", False)


def _sentencepiece(metadata: Metadata, tokens: list[str], kinds: list[int], file: str) -> dict[str, Any]:
    scores = metadata.get(f"{_KEY}scores")
    found = [score for score in scores if isinstance(score, int | float)] if isinstance(scores, list) else []
    if len(found) != len(tokens):
        raise invalid(f"{file} has {len(tokens)} tokens, and {_KEY}scores is not a number for each", file=file)
    prefix = metadata.get(f"{_KEY}add_space_prefix", True)
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    unknown = next((tokens[at] for at, kind in enumerate(kinds) if kind == _UNKNOWN), None)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(tokens, _merges(tokens, found), unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _merges(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """Pairs that become a token, that of the highest score first."""
    ids = {token: at for at, token in enumerate(tokens)}
    pairs = [
        [token[:cut], token[cut:]]
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return sorted(pairs, key=lambda pair: (-scores[ids["".join(pair)]], ids[pair[0]], ids[pair[1]]))


def _bpe(tokens: list[str], merges: list[list[str]], **options: object) -> dict[str, Any]:
    plain = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    vocabulary = {token: at for at, token in enumerate(tokens)}
    return {"type": "BPE", **plain, **options, "vocab": vocabulary, "merges": merges}
