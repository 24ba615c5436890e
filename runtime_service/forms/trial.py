"""Makes a form once in a process of its own, which can be stopped: llguidance's threads cannot.

Intersections of patterns, `multipleOf` and the like make machines of as many states as there are atoms, or never end.
The vocabulary there has bytes and the special tokens of the engine's: a grammar that names one would else be none, and
nothing would be tried.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from runtime_service.domain.response_format import refused

LIMITS = LLParserLimits(max_lexer_states=50_000, max_items_in_row=5_000, verbose_errors=False)
"""An object of 1,000 properties that may all be left out has 4,007 items in a row."""
MOST_BYTES = 2 << 30
MOST_CPU_S = 30
_COMMAND = (sys.executable, "-P", "-m", "runtime_service.forms.trial")


def try_out(grammar: str, field: str, seconds: float, size: int, special: Mapping[int, str]) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a grammar that takes longer, or more memory; others are made again.

    It is for an engine with `size` tokens, of which some are `special` and have such texts.
    """
    named = {"size": size, "special": special} if "<" in grammar else {"size": 0, "special": {}}
    asked = json.dumps({"grammar": grammar, **named}).encode()
    try:
        done = subprocess.run(_COMMAND, input=asked, capture_output=True, check=False, timeout=seconds)  # noqa: S603 - our own
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
    asked = json.load(sys.stdin)
    tokens = TokenizerWrapper(_Tokens(asked["size"], asked["special"]))
    LLMatcher(LLTokenizer(tokens, slices=[]), asked["grammar"], log_level=0, limits=LIMITS)


class _Tokens:
    """As `TokenizerWrapper` asks for it: tokens without text, special ones with theirs, and behind them all bytes."""

    def __init__(self, size: int, special: Mapping[str, str]) -> None:
        named = (special.get(str(token), f"<|no text {token}|>").encode() for token in range(size))
        self.tokens = [*named, *(bytes([byte]) for byte in range(256)), b"<|end|>"]
        self.eos_token_id = size + 256
        self.special_token_ids = [*range(size), self.eos_token_id]
        self.bos_token_id = None
        self._first = size

    def __call__(self, text: bytes) -> list[int]:
        return [self._first + byte for byte in text]


if __name__ == "__main__":
    main()
