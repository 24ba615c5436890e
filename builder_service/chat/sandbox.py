"""Limits what a chat template may use of this machine: templates are untrusted code and may never end or fill the
memory. They run in a process of their own, which takes these limits.

Executed lines of Python are counted, in loops, macros and filters alike: so that whether a template is refused does not
depend on the machine. Compiling has its own number, by the length of the source. A single built-in operation, such as
a comparison, is not counted as lines; memory and processor time bound it. The size of numbers is bounded too.
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

from builder_service.chat.limits import MOST_BITS, MOST_CPU_S, MOST_MEMORY


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


def limit_memory() -> None:
    """From now on, this process raises MemoryError for more than MOST_MEMORY on top of what it has."""
    most = psutil.Process().memory_info().vms + MOST_MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def limited(steps: int, what: str) -> Iterator[None]:
    """Limit the block to `steps`, for which it raises SecurityError, and to MOST_CPU_S, for which the process ends."""
    before, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + MOST_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))
    sys.settrace(_counting(steps, what))
    try:
        yield
    finally:
        sys.settrace(None)
        resource.setrlimit(resource.RLIMIT_CPU, (before, hard))


def _counting(most: int, what: str) -> Any:  # noqa: ANN401 - a function that returns itself
    steps = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:  # noqa: ANN401 - see above
        del frame, event, arg
        nonlocal steps
        steps += 1
        if steps > most:
            raise SecurityError(f"{what} it takes more than {most} steps")
        return trace

    return trace
