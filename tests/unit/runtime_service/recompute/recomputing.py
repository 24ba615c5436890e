"""Drives a recomputing scheduler over the scripted generator, and knows what every session ought to say."""

from __future__ import annotations

from common.window import Geometry, SessionWindow
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.recompute.scheduler import RecomputeScheduler
from runtime_service.recompute.token_generator import LoadedGenerator
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.scheduling.slots import Tenant
from tests.fakes.scripted_generator import ScriptedGenerator, next_token
from tests.unit.runtime_service.scheduling.driver import Stage, Talker

SMALL = Geometry(sinks=2, window=6, chunk=1, slots=2)


def recomputed(before: list[int], window: SessionWindow, stride: int, most: int) -> list[int]:
    """The `most` tokens after `before`, by the definition: all but a stride of the window, until prompt and reply fill
    it, and again.
    """
    tokens = list(before)
    slide = max(1, min(stride or window.window // 4, window.window - 1))
    while len(tokens) < len(before) + most:
        room = min(slide, len(before) + most - len(tokens))
        recent = tokens[window.sinks :][-max(1, window.window - room) :]
        seen = [*tokens[: window.sinks], *recent]
        for _ in range(max(1, window.capacity - len(seen))):
            tokens.append(next_token(seen))
            seen.append(tokens[-1])
    return tokens[len(before) : len(before) + most]


class Recomputing(Stage):
    """A recomputing scheduler over the scripted generator."""

    def __init__(self, geometry: Geometry = SMALL, *, stride: int = 0) -> None:
        super().__init__(geometry)
        self.stride = stride
        self.wakes = 0
        self.generator = ScriptedGenerator()
        loaded = LoadedGenerator(self.generator, self.text, geometry.slots, stride)
        self.scheduler = RecomputeScheduler(loaded, self.clock, self._hear, self._wake)

    def expected(
        self, before: list[int], window: SessionWindow, generated: int, options: GenerationOptions
    ) -> list[int]:
        return recomputed(before, window, self.stride, options.max_new_tokens)[:generated]

    def _check_view(self, window: SessionWindow, outcome: Outcome) -> None:
        """A token of the window may not be in what was sent, but one that has left it never is."""
        start = outcome.usage.window_start_position
        if outcome.tokens:
            assert start is not None
            assert start >= max(window.sinks, outcome.usage.position - window.window)

    def step(self) -> bool:
        worked = self.scheduler.step()
        return self.generator.tick() or worked

    def stored(self, history: list[int], window: SessionWindow | None = None) -> Talker:
        """A session whose tokens are in the database."""
        window = window or SessionWindow(self.geometry.sinks, self.geometry.window)
        return Talker(Tenant("t", TokenHistory.stored(window, len(history))), list(history))

    def _wake(self) -> None:
        self.wakes += 1
