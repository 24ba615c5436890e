"""Limits what a chat template may use of this machine: templates are untrusted code and may never end or fill the
memory.

Executed lines of Python are counted, in loops, macros and filters alike. A single built-in operation is not counted as
lines; it is bounded by the memory that it may allocate. Arithmetic can take long with little memory, so the size of its
operands is bounded.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_TEXT = 2**20  # characters of a rendering
MOST_STEPS = 500_000  # lines of Python; real templates take some hundreds
MOST_MEMORY = 512 * 2**20  # bytes, on top of what the process has
MOST_BITS = 4096  # of a number


class Sandbox(ImmutableSandboxedEnvironment):
    """Refuses arithmetic with results that take long to compute."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - as in the base
        """Raises SecurityError for what would be too large."""
        if _size(operator, left, right) > MOST_BITS:
            raise SecurityError(f"the result of {operator} is too large; at most {MOST_BITS} bits or items are allowed")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: object, right: object) -> int:
    """Bits of a whole number, items of a sequence."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * max(right, 0) if operator == "**" else bits + right.bit_length()
    for items, times in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(times, int):
            return len(items) * times
    return 0


@contextmanager
def limited() -> Iterator[None]:
    """Limit the block to MOST_STEPS and MOST_MEMORY; raises SecurityError for too many steps, and MemoryError."""
    tracing, (soft, hard) = sys.gettrace(), resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (min([most, *(n for n in (soft, hard) if n >= 0)]), hard))
    sys.settrace(_counting())
    try:
        yield
    finally:
        sys.settrace(tracing)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _counting() -> Any:  # noqa: ANN401 - a function that returns itself
    steps = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:  # noqa: ANN401 - see above
        del frame, event, arg
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS:
            raise SecurityError(f"it takes more than {MOST_STEPS} steps")
        return trace

    return trace
