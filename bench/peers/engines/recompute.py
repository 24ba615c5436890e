"""Sliding window with recomputation in PyTorch: every token is a forward pass over all that the window holds.

Hugging Face's model as it is, with its own attention and without a cache: the baseline of StreamingLLM's 22.2x.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from bench.peers.engines.streaming import load_model
from bench.peers.peer import Job, Peer, TooSlow, Turn, timed, token_ids

PASSES = 3
"""Of a turn that are timed; a further token takes what the last of them took."""


def load(job: Job) -> Peer:
    """The variant is fp32 or bf16."""
    return Recompute(job, load_model(job))


class Recompute:
    """A `Peer` for one session: a second one would cost the same again."""

    def __init__(self, job: Job, model: Any) -> None:  # noqa: ANN401 - transformers is not installed beside us
        self._cache = job.cache
        self._model = model
        self._decoding: list[int] = []
        self._said: list[int] = []

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers")}

    def prefill(self, count: int) -> float:
        return timed(lambda: self._next(token_ids(count)))

    def fill(self, sessions: int, most_s: float) -> None:  # noqa: ARG002 - nothing is kept that could be filled
        if sessions > 1:
            raise TooSlow("sessions share nothing: as many times slower as there are")
        self._decoding = token_ids(self._cache)

    def step(self) -> float:
        return timed(lambda: self._say(self._decoding))

    def turn(self, prompt: int, new: int) -> Turn:
        self._said += token_ids(prompt, len(self._said))
        passes = [timed(lambda: self._say(self._said)) for _ in range(min(PASSES, new))]
        left = new - len(passes)
        self._said += token_ids(left)
        return Turn(passes[0], sum(passes) + left * passes[-1])

    def _say(self, ids: list[int]) -> None:
        ids.append(self._next(ids[-self._cache :]))

    def _next(self, ids: list[int]) -> int:
        logits = self._model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())
