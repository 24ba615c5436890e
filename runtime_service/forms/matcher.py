"""How far one reply has come in its form: which tokens may come next, and whether it is whole.

llguidance never raises: a matcher with an error allows ends only, so `error` is asked for wherever one is used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llguidance import LLMatcher

from common.errors import DeadlineExceeded, InvalidArgument, Reason
from runtime_service.domain.response_format import refused, whole_name


class Matcher:
    """Life: `accept` every sampled token until `is_over`. One thread at a time: none else while a mask is found."""

    def __init__(self, state: LLMatcher, field: str, vocabulary: int, ends: Collection[int]) -> None:
        """`field` asked for the form; the engine has `vocabulary` tokens, of which `ends` end a reply."""
        self.state = state
        """What `Masks` computes with."""
        self.vocabulary = vocabulary
        self.is_slow = False
        """Whether its last mask took long."""
        self._field = field
        self._ends = frozenset(ends)

    @property
    def mask_words(self) -> int:
        """32-bit words of a mask: of llguidance's vocabulary, which has one token more where there are no ends."""
        return (self.vocabulary + (not self._ends) + 31) // 32

    @property
    def error(self) -> InvalidArgument | None:
        """Why it cannot go on, if so."""
        if not self.state.is_error():
            return None
        return refused(self._field, f"took the reply where it cannot go on: {said(self.state.get_error())}")

    def too_slow(self, seconds: float) -> DeadlineExceeded:
        """It took longer than `seconds` to say what may come next."""
        what = f"{whole_name(self._field)} took more than {seconds:g} s to find what may come next; make it simpler"
        return DeadlineExceeded(Reason.FORM_TOO_SLOW, what, seconds=f"{seconds:g}")

    @property
    def is_over(self) -> bool:
        """Whether the reply is whole, and nothing may come any more."""
        return self.state.is_stopped() and not self.state.is_error()

    def accept(self, token_id: int) -> None:
        """Take the token that was sampled."""
        self.state.consume_token(token_id)

    def fitting(self, draft: Sequence[int]) -> int:
        """How many of the first tokens of a draft may come, without an end of the reply."""
        before = next((index for index, token in enumerate(draft) if token in self._ends), len(draft))
        return self.state.validate_tokens(list(draft[:before])) if before else 0


def said(error: str) -> str:
    """What llguidance says, in one line and without what it draws, or lists."""
    error = error.split("; following special tokens are available", maxsplit=1)[0]
    error = error.replace("NoExtensionBias", "nothing fits it")
    lines = (line.strip() for line in error.split("\n"))
    return " ".join(line for line in lines if set(line) - {"^"} and line != "<non-verbose/>")[:500]
