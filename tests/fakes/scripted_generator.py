"""A token generator without a model and without threads: one token for each generation at every `tick`.

A token is the likeliest by `hashed_logits` of everything that its generation was given and has told, so that who sends
another prompt hears another reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import SinkServeError
from runtime_service.decoding.sampling import Sampled
from runtime_service.domain.options import GenerationOptions
from runtime_service.recompute.token_generator import Completed, Failed, GenerationEvent, OnEvent, Token
from tests.fakes.engine import hashed_logits


def next_token(seen: Sequence[int], vocabulary: int = 64) -> int:
    """What is told after `seen`."""
    return int(hashed_logits([token + 1 for token in seen], vocabulary).argmax())


class ScriptedGeneration:
    """Tells a token more after an abort, as if it had been on its way."""

    def __init__(self, tokens: tuple[int, ...], options: GenerationOptions, most: int, on_event: OnEvent) -> None:
        self.tokens = tokens
        self.options = options
        self.most = most
        self.on_event = on_event
        self.told: list[int] = []
        self.ended = False
        self.aborted = False

    def abort(self) -> None:
        if not self.ended and not self.aborted:
            self.tell()
        self.aborted = True

    @property
    def running(self) -> bool:
        return not self.ended and not self.aborted

    def tell(self) -> None:
        if len(self.told) == self.most:
            self.end(Completed())
            return
        self.told.append(next_token([*self.tokens, *self.told]))
        self.on_event(Token(Sampled(self.told[-1])))

    def end(self, event: GenerationEvent) -> None:
        self.ended = True
        self.on_event(event)


class ScriptedGenerator:
    """`started` are all generations; `refusal` is raised by the next start."""

    def __init__(self) -> None:
        self.started: list[ScriptedGeneration] = []
        self.refusal: Exception | None = None
        self.closed = False

    def start(
        self, tokens: tuple[int, ...], options: GenerationOptions, most: int, on_event: OnEvent
    ) -> ScriptedGeneration:
        assert not self.closed, "start after close"
        assert tokens, "nothing to continue"
        assert most >= 1, most
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.started.append(ScriptedGeneration(tokens, options, most, on_event))
        return self.started[-1]

    @property
    def running(self) -> list[ScriptedGeneration]:
        return [generation for generation in self.started if generation.running]

    def tick(self) -> bool:
        """Let every generation tell one thing; False: none runs."""
        running = self.running
        for generation in running:
            generation.tell()
        return bool(running)

    def break_all(self, error: SinkServeError) -> None:
        for generation in self.running:
            generation.end(Failed(error))

    def close(self) -> None:
        self.closed = True
