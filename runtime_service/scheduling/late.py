"""A reply that waits for its mask while the others go on."""

from __future__ import annotations

from dataclasses import dataclass

from common.engine.engine import FloatArray
from common.errors import SinkServeError
from runtime_service.forms.masks import PendingMask

LEAST_WAIT_S = 0.001
WAIT = 0.5
"""Times the engine's step that others wait for a mask at most: a reply that is late costs them a step of its own."""


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
        """How long it may still take; all of that while it waits for a thread."""
        began = self.mask.began_at
        return self.most_s - (0.0 if began is None else now - began)

    @property
    def error(self) -> SinkServeError:
        """Why the reply cannot go on, when no time is left."""
        return self.mask.wanted.matcher.too_slow(self.most_s)
