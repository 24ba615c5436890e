"""Makes a form once in a process of its own, which can be stopped: llguidance's threads cannot.

Intersections of patterns, `multipleOf` and the like make machines of as many states as there are atoms, or never end.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from runtime_service.domain.response_format import refused

LIMITS = LLParserLimits(max_lexer_states=50_000, max_items_in_row=5_000, verbose_errors=False)
"""An object of 1,000 properties that may all be left out has 4,007 items in a row."""
MOST_BYTES = 2 << 30
MOST_CPU_S = 30
_COMMAND = (sys.executable, "-P", "-m", "runtime_service.forms.trial")


def try_out(grammar: str, field: str, seconds: float) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a grammar that takes longer, or more memory; others are made again."""
    try:
        done = subprocess.run(_COMMAND, input=grammar.encode(), capture_output=True, check=False, timeout=seconds)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        raise too_slow(field, seconds) from None
    if done.returncode:
        raise refused(field, f"takes more than {MOST_BYTES >> 30} GiB of memory to prepare; make it simpler")


def too_slow(field: str, seconds: float) -> Exception:
    """It is refused for the time that it takes."""
    return refused(field, f"takes more than {seconds:g} s to prepare; make it simpler")


def main() -> None:
    """Make what stdin has; that it ends at all is what is asked."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))  # should whoever waits be killed
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0, limits=LIMITS)


if __name__ == "__main__":
    main()
