"""Conversations in text: what a peer that talks is asked, and how its turns are timed.

Runs beside every peer, so it needs nothing that is not Python's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.peers.peer import CLOCK

AS_RUN = "keep, as run takes it"
"""The variant of our own engine."""
CONTEXT = 4096
"""Tokens that ours and llama.cpp keep."""


@dataclass(frozen=True)
class Said:
    """A turn: seconds until its first token and in all, and tokens of the reply."""

    first_s: float
    total_s: float
    tokens: int
    text: str

    @property
    def rate(self) -> float:
        """Tokens a second after the first; 0 for a reply of one."""
        return (self.tokens - 1) / (self.total_s - self.first_s) if self.tokens > 1 else 0.0


class Talker(Protocol):
    """A model that is told what a user says, in one conversation that never ends."""

    @property
    def versions(self) -> dict[str, str]:
        """What runs, by package."""

    def say(self, text: str, new: int) -> Said:
        """Tell it `text`; greedy, at most `new` tokens."""


class Heard:
    """A reply as it comes, timed from now on by what processes take of processors, or by the wall."""

    def __init__(self, processes: Callable[[], list[int]]) -> None:
        self._processes = processes
        self._wall = os.environ.get(CLOCK, "wall") == "wall"
        self._first = 0.0
        self._pieces: list[str] = []
        self._tokens = 0
        self._began = self._clock()

    def add(self, text: str, tokens: int = 1) -> None:
        """So many tokens have come, and this text."""
        self._first = self._first or self._clock() - self._began
        self._pieces.append(text)
        self._tokens += tokens

    def _clock(self) -> float:
        return time.perf_counter() if self._wall else sum(map(processor_seconds, self._processes()))

    def said(self) -> Said:
        """The reply, which is whole."""
        return Said(self._first, self._clock() - self._began, self._tokens, "".join(self._pieces))


def processor_seconds(process: int) -> float:
    """What all threads of a process have taken of processors so far."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def offspring(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = [
        int(child) for each in Path(f"/proc/{process}/task").glob("*/children") for child in each.read_text().split()
    ]
    return found + [grandchild for child in found for grandchild in offspring(child)]
