"""What a peer can do, and how it is told: lines of JSON, so that every peer runs where its packages are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = "SINKSERVE_PEERS_CLOCK"
"""Environment variable with the clock's name."""


@dataclass(frozen=True)
class Job:
    """What a peer loads."""

    checkpoint: Path
    """In Hugging Face's layout."""
    scratch: Path
    """A folder for what the peer makes of the checkpoint; it may find there what it made before."""
    sinks: int
    cache: int
    """Rows of every session, sinks and window together."""
    chunk: int
    """Most tokens in a step; only ours asks."""
    threads: int
    variant: str
    """Which of its precisions, where it has several."""


@dataclass(frozen=True)
class Turn:
    """Seconds of a turn: until its first token, and in all."""

    first_s: float
    total_s: float


class TooSlow(Exception):
    """A measure would take longer than the run allows; the message says what."""


class Peer(Protocol):
    """Made by loading. Times are what `timed` says; what prepares a measure is not in them."""

    @property
    def versions(self) -> dict[str, str]:
        """What runs, by package."""

    def prefill(self, count: int) -> float:
        """Feed `count` tokens into an empty session; returns when the logits of the last are there."""

    def fill(self, sessions: int, most_s: float) -> None:
        """Fill the caches of `sessions` sessions; raises TooSlow if it expects more than `most_s` seconds."""

    def step(self) -> float:
        """One token for each of the filled sessions, greedy, each over a full cache."""

    def turn(self, prompt: int, new: int) -> Turn:
        """Feed `prompt` tokens, generate `new`: the next turn of one conversation, which never ends."""


def timed(act: Callable[[], object]) -> float:
    """Seconds that `act` takes, by the clock on the wall or of processors in this process."""
    clock = CLOCKS[os.environ.get(CLOCK, "wall")]
    start = clock()
    act()
    return clock() - start


def token_ids(count: int, start: int = 0) -> list[int]:
    """Tokens of no meaning that every vocabulary has, other ones from another start."""
    return [5 + (7 * (start + index)) % 251 for index in range(count)]
