"""A tokenizer that puts a space before every text, made to leave texts as they are.

Sentencepiece-style tokenizers begin every text with a space that nobody wrote. Behind a template's own text there is
none, so contents that are encoded apart must not get one either; and what is decoded has none to lose.
"""

from __future__ import annotations

from typing import Any

_NEVER = {"prepend_scheme": "never"}


def without_prefix_space(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json, parsed, without any space before texts; equal to it where it puts none."""
    return tokenizer | {
        "normalizer": _step(tokenizer["normalizer"]),
        "pre_tokenizer": _step(tokenizer["pre_tokenizer"]),
        "decoder": _step(tokenizer["decoder"]),
    }


def _step(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """One normalizer, pre-tokenizer or decoder, or a sequence of them; None: nothing is left of it."""
    kind = step["type"] if step else None
    if step is None or kind == "Prepend" or (kind == "Strip" and _strips_first_space(step)):
        return None
    if kind == "Metaspace":
        return step | _NEVER
    if kind == "ByteLevel":
        return step | {"add_prefix_space": False}
    for name in ("normalizers", "pretokenizers", "decoders"):
        if name in step:
            return step | {name: [kept for kept in map(_step, step[name]) if kept]}
    return step


def _strips_first_space(step: dict[str, Any]) -> bool:
    """Only decoders have counts: the normalizer of this name strips on purpose."""
    return step.get("content") == " " and bool(step.get("start"))
