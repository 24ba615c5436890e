"""What an engine says to streams, and with a probe how it comes to say so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from builder_service.graph.attention.narrow_attention import FEW_TOKENS
from builder_service.graph.engine_weights import EngineWeights
from builder_service.verify.golden_streams import plan_golden
from builder_service.verify.probe import Probe
from builder_service.verify.reference_model import Array, Stream
from builder_service.verify.streams import plan_streams, run
from common.engine.engine import Engine
from common.golden.golden import GoldenStream
from common.golden.rehearsal import Answer, rehearse


@dataclass(frozen=True)
class Heard:
    """What an engine says to one stream. A probe has the states of its residual stream too.

    `tokens` are those that have logits, the last of every step. States are [token, hidden]; the two of the last layer
    are known of `tokens` alone, and NaN of the others.
    """

    tokens: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]  # [tokens, vocabulary]
    states: tuple[Array, ...] = ()
    short: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Of each token, whether it was read in a step of few tokens: of a probe."""

    def known(self, part: int) -> npt.NDArray[np.int64]:
        """Tokens of which it is known what part number `part` has made: a state, or behind all of them the logits."""
        return np.arange(len(self.states[0])) if part < len(self.states) - 2 else self.tokens

    def after(self, part: int) -> npt.NDArray[np.floating]:
        """What the part has made of them, [known tokens, width]."""
        return self.states[part][self.known(part)] if part < len(self.states) else self.logits


@dataclass(frozen=True)
class Evidence:
    """Streams, what an engine says to them, and if there is a probe of its graph, what that says and reads."""

    streams: tuple[Stream, ...]
    heard: tuple[Heard, ...]
    probed: tuple[Heard, ...] = ()
    weights: EngineWeights | None = None
    golden: tuple[GoldenStream, ...] = ()
    """Streams that every load will ask, without what is expected."""
    answers: tuple[Answer, ...] = ()
    """What the engine says to them."""

    @property
    def traced(self) -> tuple[Stream, ...]:
        """The streams as they are on the probe's own states."""
        return tuple(replace(s, given=one.states) for s, one in zip(self.streams, self.probed, strict=False))


def hear(engine: Engine) -> Evidence:
    """What an engine says, in words of its own; leaves all slots cleared."""
    streams = plan_streams(engine)
    golden = plan_golden(engine.geometry, [stream.tokens for stream in streams])
    return Evidence(streams, _listen(engine, streams), golden=golden, answers=rehearse(engine, golden))


def trace(evidence: Evidence, probe: Probe) -> Evidence:
    """And what a probe says to the same streams; leaves all slots cleared."""
    return replace(evidence, probed=_listen(probe, evidence.streams), weights=probe.weights)


def _listen(engine: Engine, streams: tuple[Stream, ...]) -> tuple[Heard, ...]:
    tokens: list[list[int]] = [[] for _ in streams]
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in streams]
    states = [_unknown(engine, len(stream.tokens)) for stream in streams]
    short = [np.zeros(len(stream.tokens), bool) for stream in streams]
    for fed in run(engine, streams):
        tokens[fed.stream].append(fed.tokens[-1])
        logits[fed.stream].append(fed.logits)
        if isinstance(engine, Probe):
            short[fed.stream][fed.tokens] = engine.step_tokens <= FEW_TOKENS
            for state, rows in zip(states[fed.stream], engine.residuals(fed.slot), strict=True):
                state[fed.tokens.stop - len(rows) : fed.tokens.stop] = rows
    parts = zip(tokens, logits, states, short, strict=True)
    return tuple(Heard(np.array(t), np.array(x), tuple(s), few) for t, x, s, few in parts)


def _unknown(engine: Engine, tokens: int) -> list[Array]:
    if not isinstance(engine, Probe):
        return []
    return [np.full((tokens, engine.hidden), np.nan) for _ in range(engine.states)]
