"""The error of a build that ran out of memory, with its estimate, its peak, and its limit."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import Reason, ResourceExhausted

_SIGNS = (
    "bad_alloc",
    "cannot allocate memory",
    "failed to allocate memory",
    "memory allocation still failed",
    "can't start new thread",  # there is room for no stack
)
"""Words in the messages of libraries that report it by an error of their own, which may be wrapped in one of ours."""


@dataclass(frozen=True)
class MemoryUse:
    """Memory of one build, in bytes; 0 where unknown: no estimate before PLAN, no peak of a process that ended at
    once.
    """

    estimate_bytes: int = 0
    peak_bytes: int = 0
    limit_bytes: int = 0

    def __str__(self) -> str:
        """What is known, for a person."""
        said = (("estimate", self.estimate_bytes), ("peak", self.peak_bytes), ("limit", self.limit_bytes))
        return ", ".join(f"{name} {mib(size)}" for name, size in said if size)


def out_of_memory(what: str, use: MemoryUse, **metadata: object) -> ResourceExhausted:
    """The error (OUT_OF_MEMORY): what happened, and the figures that are known."""
    error = ResourceExhausted(Reason.OUT_OF_MEMORY, f"{what} ({use})" if str(use) else what)
    error.metadata = {name: str(value) for name, value in (vars(use) | metadata).items() if value}
    return error


def sounds_like(text: str) -> bool:
    """Whether this is a library's message about memory that it did not get."""
    return any(sign in text.lower() for sign in _SIGNS)


def mib(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / 2**20:,.0f} MiB"
