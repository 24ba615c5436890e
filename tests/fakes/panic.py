"""What native code raises when it panics, such as pyo3's PanicException: no Exception."""

from __future__ import annotations

from typing import NoReturn

import pytest

from common.text.content import ContentEncoder

TEXT = "panic"


class Panic(BaseException):
    """It cannot be caught as an Exception."""


def panic(*_: object) -> NoReturn:
    raise Panic("called `Option::unwrap()` on a `None` value")


def panic_at_text(patch: pytest.MonkeyPatch) -> None:
    """The tokenizer panics at TEXT."""
    encode = ContentEncoder.encode

    def encoded(encoder: ContentEncoder, text: str) -> tuple[int, ...]:
        return panic() if text == TEXT else encode(encoder, text)

    patch.setattr(ContentEncoder, "encode", encoded)
