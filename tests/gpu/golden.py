"""Golden tokens: what one engine says greedily, and how close another one comes when it is made to say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.engine.engine import Engine, Feed, FloatArray
from common.window import SessionWindow


@dataclass(frozen=True)
class Golden:
    """A prompt and the greedy reply to it, with the logits after every token, [token, vocabulary]."""

    tokens: tuple[int, ...]
    logits: FloatArray
    prompt: int
    """Tokens that were not chosen."""


@dataclass(frozen=True)
class Closeness:
    """How far logits are off, relative to the largest that were expected of their token; infinite if not finite."""

    error: float
    """Of any logit."""
    gap: float
    """Of a forced token below the best one."""

    def within(self, tolerance: float) -> bool:
        """Whether both are."""
        return max(self.error, self.gap) <= tolerance


def greedy(engine: Engine, slot: int, window: SessionWindow, prompt: Sequence[int], count: int) -> Golden:
    """Feed `prompt`, then `count` tokens of the engine's own choice, one by one."""
    tokens, rows = list(prompt), list[FloatArray]()
    for position in range(len(prompt) + count):
        rows.append(engine.step((Feed(slot, position, window, (tokens[position],)),))[0])
        if position + 1 == len(tokens):
            tokens.append(int(rows[-1].argmax()))
    return Golden(tuple(tokens[:-1]), np.stack(rows), len(prompt))


def compare(got: Mapping[int, FloatArray], golden: Golden) -> Closeness:
    """Logits by position, from whatever steps, beside the golden ones."""
    errors, gaps = [], [0.0]
    for position, logits in got.items():
        want = golden.logits[position]
        errors.append(_relative(np.abs(logits - want).max(), want))
        if golden.prompt <= position + 1 < len(golden.tokens):
            gaps.append(_relative(logits.max() - logits[golden.tokens[position + 1]], want))
    return Closeness(max(errors), max(gaps))


def _relative(error: float, want: FloatArray) -> float:
    relative = float(error / np.abs(want).max())
    return relative if np.isfinite(relative) else np.inf
