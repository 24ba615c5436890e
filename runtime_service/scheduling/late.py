"""A reply that waits for its mask while the others go on."""

from __future__ import annotations

from dataclasses import dataclass

from common.engine.engine import FloatArray
from common.errors import Reason, ResourceExhausted, SinkServeError
from runtime_service.forms.masks import PendingMask

LEAST_WAIT_S = 0.001
WAIT = 0.5
"""Times the engine's step that others wait for a mask at most: a reply that is late costs them a step of its own."""
QUEUED = 10
"""Times what a mask may take that it may wait for a thread."""


def patience(step_s: float) -> float:
    """Seconds to wait for masks after an engine's step that took `step_s`."""
    return max(LEAST_WAIT_S, WAIT * step_s)


@dataclass(frozen=True)
class Late:
    """Logits, [1, vocabulary], of the next token of a reply whose `mask` was not there when the engine was done."""

    logits: FloatArray
    mask: PendingMask
    most_s: float
    """How long the mask may take."""

    def left_s(self, now: float) -> float:
        """How long it may still take, or wait for a thread."""
        if self.mask.began_at is None:
            return QUEUED * self.most_s - (now - self.mask.asked_at)
        return self.most_s - (now - self.mask.began_at)

    @property
    def error(self) -> SinkServeError:
        """Why the reply cannot go on, when no time is left."""
        if self.mask.began_at is None:
            what = "forms of other replies take long, and this one has waited for them"
            return ResourceExhausted(Reason.CAPACITY_EXHAUSTED, what, retry_after_s=1.0)
        return self.mask.wanted.matcher.too_slow(self.most_s)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self.mask.future.cancel()
