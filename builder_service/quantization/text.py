"""The text that a model is rounded by, as its tokens. It is part of this package, so every build has the same."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from tokenizers import Tokenizer

UNREAD = 512  # tokens by chance, of a model that no text can be told to


def text_tokens(tokenizer: Tokenizer | None, vocabulary: int) -> list[int]:
    """The text through a model's tokenizer; without one, tokens by chance, the same in every build."""
    if tokenizer is None:
        return [int(token) for token in np.random.default_rng(vocabulary).integers(vocabulary, size=UNREAD)]
    text = files(__package__).joinpath("text.txt").read_text(encoding="utf-8")
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return [token for token in tokens if token < vocabulary]
