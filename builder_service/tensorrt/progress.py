"""Turns the nested phases of steps that a compiler tells of into one number from 0 to 1 that never falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

_TOLD = 0.1
"""Share of a compilation that TensorRT-RTX tells of."""
_AT_EXPECTED = 0.8
"""Share of the rest that is taken to be done when the expected time is over: most are done by then, but not all."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class CompileProgress:
    """Progress by phase. A phase inside another counts as one step of it.

    Each phase at the top takes the share that is left.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> float:
        """A phase of `steps` steps begins, inside `parent` if that is open; returns the share done."""
        self._close(name)  # a name that is used again is another phase
        self._open[name] = _Phase(parent if parent in self._open else None, max(1, steps))
        return self.share

    def step(self, name: str, step: int) -> float:
        """Step number `step`, from 0, is done; returns the share done."""
        if (phase := self._open.get(name)) is not None:
            phase.done = min(phase.steps, max(phase.done, step + 1))
        return self.share

    def finish(self, name: str) -> float:
        """A phase ends, and with it those inside; returns the share done."""
        if (phase := self._open.get(name)) is not None:
            phase.done = phase.steps
        share = self.share
        self._close(name)
        return share

    @property
    def share(self) -> float:
        """Share done of all that is known of."""
        tops = [name for name, phase in self._open.items() if phase.parent is None]
        self._share = max([self._share, *map(self._done, tops)])
        return self._share

    def _done(self, name: str) -> float:
        phase = self._open[name]
        inside = max((self._done(each) for each, inner in self._open.items() if inner.parent == name), default=0.0)
        return min(1.0, (phase.done + inside) / phase.steps)

    def _close(self, name: str) -> None:
        self._open.pop(name, None)
        for inner in [each for each, phase in self._open.items() if phase.parent == name]:
            self._close(inner)


class EstimatedProgress:
    """Progress of a compiler that is silent for most of its time. Pure: the caller passes the time.

    What it tells counts for a little; the rest goes by time, steadily up to the expected one, then ever slower.
    """

    def __init__(self, expected_s: float) -> None:
        self._expected_s = expected_s
        self._told = 0.0

    def told(self, share: float) -> None:
        """Take what the compiler says to be done."""
        self._told = max(self._told, share)

    def share(self, elapsed_s: float) -> float:
        """Share done after so many seconds: rises always, and stays below 1."""
        return _TOLD * self._told + (1.0 - _TOLD) * self._by_clock(elapsed_s / self._expected_s)

    @staticmethod
    def _by_clock(passed: float) -> float:
        if passed <= 1.0:
            return _AT_EXPECTED * passed
        return 1.0 - (1.0 - _AT_EXPECTED) * math.exp(1.0 - passed)
