"""How a build says that memory ran out: what was thought to be enough, what it took, and what it may have."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import Reason, ResourceExhausted

_SIGNS = ("bad_alloc", "cannot allocate memory", "failed to allocate memory", "memory allocation still failed")
"""What libraries say that have an error of their own for it, which may be wrapped in one of ours."""


@dataclass(frozen=True)
class MemoryUse:
    """Of one build, in bytes; 0 where nobody knows: no estimate before PLAN, no peak of what ended at once."""

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
    """Whether these are words of a library that got no memory."""
    return any(sign in text.lower() for sign in _SIGNS)


def mib(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / 2**20:,.0f} MiB"
