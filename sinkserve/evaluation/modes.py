"""Ways to go through a long stream with a cache of a given size, as the paper compares them.

Source: StreamingLLM (arXiv 2309.17453), figure 1: (a) dense, (b) window, (c) recomputation, (d) sinks and window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.window import Geometry, SessionWindow

SINKS = (1, 2, 4, 8)
STEP = 16
"""Most tokens a step where a cache is made for a measurement."""
KEPT = 4
"""First tokens that the second kind of recomputation reads before the last ones."""


class Kind(StrEnum):
    """What becomes of tokens when the cache is full."""

    DENSE = "dense"
    WINDOW = "window"
    RECOMPUTE = "recompute"
    SINKS = "sinks"


@dataclass(frozen=True)
class Mode:
    """One way; `window` is what its sessions freeze."""

    kind: Kind
    window: SessionWindow

    @property
    def name(self) -> str:
        """As tables and plots call it."""
        sinks, size = self.window.sinks, self.window.window
        return {
            Kind.DENSE: "dense",
            Kind.WINDOW: f"window 0+{size}",
            Kind.RECOMPUTE: f"recomputation {sinks}+{size}",
            Kind.SINKS: f"sinks {sinks}+{size}",
        }[self.kind]


def all_modes(capacity: int, length: int) -> tuple[Mode, ...]:
    """Every way with a cache of `capacity` tokens through a stream of `length`; sinks only where they fit.

    Dense keeps everything: its window is the stream. Recomputation forgets everything and reads `capacity` tokens anew
    at positions from 0, for every token: the last ones, as in the paper, or the stream's first few and then the last
    ones, which a model that leans on its begin token needs.
    """
    return (
        Mode(Kind.DENSE, SessionWindow(0, length)),
        Mode(Kind.WINDOW, SessionWindow(0, capacity)),
        *(Mode(Kind.RECOMPUTE, SessionWindow(kept, capacity - kept)) for kept in (0, KEPT) if kept < capacity),
        *(Mode(Kind.SINKS, SessionWindow(sinks, capacity - sinks)) for sinks in SINKS if sinks < capacity),
    )


def holds(geometry: Geometry, window: SessionWindow) -> bool:
    """Whether an engine of `geometry` can hold a session of `window`."""
    return window.sinks <= geometry.sinks and window.window <= geometry.window


def common_geometry(windows: Sequence[SessionWindow], slots: int) -> Geometry:
    """The smallest cache that can hold a session of each of `windows`, at most `slots` at once."""
    sinks, window = max(window.sinks for window in windows), max(window.window for window in windows)
    return Geometry(sinks, window, STEP, min(slots, len(windows)))
