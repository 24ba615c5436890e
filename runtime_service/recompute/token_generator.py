"""An engine that keeps nothing between two calls: it is given tokens and options, and streams tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from common.errors import SinkServeError
from runtime_service.decoding.sampling import Sampled
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions


@dataclass(frozen=True)
class Token:
    """The next token."""

    sampled: Sampled


@dataclass(frozen=True)
class Completed:
    """As many tokens as were asked for have come; nothing follows."""


@dataclass(frozen=True)
class Failed:
    """The generation failed; nothing follows."""

    error: SinkServeError


GenerationEvent = Token | Completed | Failed
OnEvent = Callable[[GenerationEvent], None]


class Generation(Protocol):
    """Tokens on their way."""

    def abort(self) -> None:
        """Want no more tokens; from any thread, any number of times, at any time; never raises.

        What is on its way may still come.
        """
        ...


class TokenGenerator(Protocol):
    """A model that continues tokens. `start` and `close` come from one thread."""

    def start(self, tokens: tuple[int, ...], options: GenerationOptions, most: int, on_event: OnEvent) -> Generation:
        """Continue `tokens` (at least one) by `most` more (at least one), each given to `on_event` as it comes.

        Of `options` only what chooses a token counts: the receiver looks for stops and ends of the reply. Then comes
        one Completed, or one Failed instead of what is left; after an abort perhaps neither. `on_event` may be called
        in any thread, before `start` returns too, but never twice at a time for one generation.
        """
        ...

    def close(self) -> None:
        """Free the model, whatever runs; nothing is started after."""
        ...


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator in memory, with what its sessions need: its text, and how its window slides.

    `slots` turns run at once. Inside a turn the window slides by `stride_tokens`; 0: a quarter of it.
    """

    generator: TokenGenerator
    text: Text
    slots: int
    stride_tokens: int = 0
