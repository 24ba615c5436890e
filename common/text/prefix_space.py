"""Changes a tokenizer that puts a space before every text, so that it leaves texts as they are.

Sentencepiece-style tokenizers add a space before every text, and remove one when they decode. In a rendered template
there is none before a content, so a content that is encoded on its own must not get one. A reply is a text of its own,
and loses the space; where text is fed as it is, a reply goes on in the middle of a text, and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = dict[str, Any]


def without_prefix_space(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json, parsed, that puts no space before texts; equal to it where it puts none."""
    return tokenizer | {
        "normalizer": _changed(tokenizer["normalizer"], _normalizer),
        "pre_tokenizer": _changed(tokenizer["pre_tokenizer"], _pre_tokenizer),
    }


def keeping_spaces(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json, parsed, that removes no space before texts when it decodes."""
    return tokenizer | {"decoder": _changed(tokenizer["decoder"], _decoder)}


def _changed(step: Step | None, change: Callable[[Step], Step | None]) -> Step | None:
    """The step after `change`; of a sequence, every step. None: the step is removed."""
    if step is None:
        return None
    for parts in ("normalizers", "pretokenizers", "decoders"):
        if parts in step:
            return step | {parts: [kept for part in step[parts] if (kept := _changed(part, change))]}
    return change(step)


def _normalizer(step: Step) -> Step | None:
    return None if step["type"] == "Prepend" else step


def _pre_tokenizer(step: Step) -> Step:
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if step["type"] == "ByteLevel" else step


def _decoder(step: Step) -> Step | None:
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return None if step["type"] == "Strip" and step["content"] == " " and step["start"] else step
