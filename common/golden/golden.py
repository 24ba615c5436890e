"""`golden.json`: a few streams and what an engine makes of them, with how far off one that is right may be.

The streams start just before the ring's end. What they see grows with them, so that no row is seen that was not fed,
however large the engine's window is (`builder_service.verify.golden` writes them).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import DataLoss, Reason

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GoldenStep(_Part):
    """Tokens of one stream that are fed together, and what is predicted behind them."""

    position: int
    """Of the first token."""
    window: int
    """Tokens besides the sinks that each of them sees, itself included."""
    tokens: tuple[int, ...]
    """What is fed."""
    likely: tuple[int, ...] = ()
    """The tokens that the reference finds likeliest behind them."""
    log_probabilities: tuple[Finite, ...] = ()
    """Of `likely`, in nats."""
    others: Finite | None = None
    """Of all other tokens together, likewise; None: there are no others."""


class GoldenRows(_Part):
    """What one layer keeps of a stream's sinks and last tokens, of some of its numbers."""

    layer: int
    keys: tuple[tuple[Finite, ...], ...]
    """[token, channel]; rotated at the tokens' positions."""
    values: tuple[tuple[Finite, ...], ...]
    """[token, channel]"""


class GoldenStream(_Part):
    """One session."""

    sinks: int
    """Tokens that it keeps from its start."""
    steps: tuple[GoldenStep, ...]
    """In order."""
    kept: int = 0
    """Last tokens whose keys and values are compared, besides the sinks."""
    rows: tuple[GoldenRows, ...] = ()
    """By layer."""

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Of all tokens."""
        return tuple(step.position + place for step in self.steps for place in range(len(step.tokens)))

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(token for step in self.steps for token in step.tokens)

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.positions[-1] + 1


class Golden(_Part):
    """All streams, and the bounds of what they may differ by."""

    format: Literal[1] = 1
    """Version of this layout."""
    tolerance: Finite
    """Mean divergence in nats of the predictions behind all steps."""
    channels: tuple[int, ...]
    """Which numbers of a token's keys, and of its values, are compared, counted through the heads."""
    row_tolerances: dict[int, Finite]
    """By layer: the error of the numbers that are compared, relative to them."""
    streams: tuple[GoldenStream, ...]
    """The streams."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises DataLoss (STORE_CORRUPT) for a file that is none."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataLoss(Reason.STORE_CORRUPT, f"{path.name} does not hold golden streams: {error}") from error

    def to_bytes(self) -> bytes:
        """What `read` takes."""
        return self.model_dump_json().encode()
