"""How far an engine is from what it ought to say, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builder_service.graph.engine_weights import Weighed
from builder_service.verify.listen import Heard
from builder_service.verify.reference_model import Part
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import Precision

Array = npt.NDArray[np.floating]

NOISE_ALLOWED = 4.0  # times what the noise does
DIVERGENCE = {
    Precision.FP32: 1e-8,
    Precision.FP16: 1e-3,
    Precision.BF16: 2e-2,
    Precision.INT8: 1e-3,
    Precision.INT4: 1e-3,
    Precision.KEEP: 1e-3,
}
"""Nats a token that are allowed however calm the model is: those of one activation that rounds otherwise."""
MOST_LOST = 1.5
"""Nats a token that a precision may cost: what is further from the checkpoint is another model."""
PART_ERROR = {Precision.FP32: 1e-5, Precision.INT8: 1e-3, Precision.INT4: 1e-3, Precision.KEEP: 5e-4}
"""Error of a part, relative to what it adds to the residual stream, that is allowed likewise; where matrices are judged
by themselves too, twice as much.
"""
WIDE = 192
"""Of a residual stream that is narrower, one activation is a larger share."""
MULTIPLIED_DIVERGENCE, MULTIPLIED_ERROR = 5e-3, 1e-2
"""Likewise of predictions, and of attention in short steps, where keys and values of 8 bits are multiplied as they are:
by factors of some 13 bits, whose error makes activations round otherwise (2.7e-3 of a part in SmolLM2; a divergence of
1.4e-3 in a random model 48 wide)."""


SCALE_ALLOWED = 0.001
"""Relative: a scale is what its block's range gives, but for the last digit."""
ZERO_ALLOWED = 0.25
"""Likewise a zero point, but for one that lies between two."""
GAIN_ALLOWED = 6.0
"""Standard errors of the size of a matrix: in one of a thousand weights chance counts, and ranges that are cut."""


@dataclass(frozen=True)
class Bounds:
    """Of a matrix beside the checkpoint's: `distance` in steps, `gain` relative."""

    distance: float
    gain: float


WEIGHTS: Mapping[int, Bounds] = {8: Bounds(4.0, 0.002), 4: Bounds(2.0, 0.012)}
"""Of matrices that were rounded so that they make up for their own errors, by their bits."""


@dataclass(frozen=True)
class Judged:
    """A figure, and what it may be at most."""

    what: str
    figure: float
    allowed: float
    kind: str = ""
    """Under which name it stands in a manifest."""

    @property
    def margin(self) -> float:
        """How many times the figure is allowed; below 1 it is too much."""
        return self.allowed / max(self.figure, 1e-30)


def judge_part(
    number: int, part: Part, probed: tuple[Heard, ...], precision: Precision, *, narrow: bool = False
) -> Iterator[Judged]:
    """A part of the model on the states that a probe gives it.

    The last streams of `part` are those of the probe, and the last of them once more, with noise. In an engine with a
    `narrow` cache attention in short steps is judged by itself.
    """
    first = len(part.after) - len(probed) - 1
    errors = np.concatenate(
        [
            relative_errors(heard.after(number), part.before[index][known], part.after[index][known])
            for index, heard in enumerate(probed, first)
            for known in (heard.known(number),)
        ]
    )
    known = probed[-1].known(number)
    shaken = part.after[-1][known].astype(np.float32)
    noise = relative_errors(shaken, part.before[-2][known], part.after[-2][known])
    width, what = part.before[0].shape[-1], f"the error of the {part.name}"
    allowed = allow(_part_error(precision, width), float(noise.mean()))
    short = np.concatenate([heard.short[heard.known(number)] for heard in probed]) & (narrow and part.attends)
    if not short.all():
        yield Judged(what, float(errors[~short].mean()), allowed, "part_error")
    if short.any():
        most = max(allowed, MULTIPLIED_ERROR * _share(width))
        yield Judged(f"{what} in short steps", float(errors[short].mean()), most, "part_error")


def judge_weights(found: Weighed) -> tuple[Judged, ...]:
    """A matrix: its scales and zero points, how far its rows are from the checkpoint's, and how large it is on the
    whole.
    """
    bounds = WEIGHTS[found.bits]
    gain = max(bounds.gain, GAIN_ALLOWED * found.gain_error)
    return (
        Judged(f"the error of scales of {found.name}", found.scale, SCALE_ALLOWED, "weight_scale"),
        Judged(f"the error of zero points of {found.name}", found.zero, ZERO_ALLOWED, "weight_zero"),
        Judged(f"the distance of rows of {found.name}, in steps,", found.distance, bounds.distance, "weight_distance"),
        Judged(f"the change in size of {found.name}", abs(found.gain), gain, "weight_gain"),
    )


def _part_error(precision: Precision, hidden: int) -> float:
    """What is allowed of a part however calm it is, in a residual stream of `hidden` numbers.

    An activation that rounds otherwise at a sink is seen by all tokens behind it. In a stream of 48 that made 1.3e-3.
    """
    return PART_ERROR[precision] * (1.0 if precision is Precision.FP32 else _share(hidden))


def _share(hidden: int) -> float:
    share: float = max(1.0, WIDE / hidden) ** 1.5
    return share


def judge_predictions(
    logits: Sequence[Array], heard: tuple[Heard, ...], precision: Precision, *, narrow: bool = False
) -> Judged:
    """What the engine says to all streams; `logits` are the reference's of each, then of the last one with noise."""
    expected = [rows[one.tokens] for rows, one in zip(logits, heard, strict=False)]
    noise = divergence(logits[len(heard)][heard[-1].tokens], expected[-1])
    figure = divergence(np.concatenate([one.logits for one in heard]), np.concatenate(expected))
    least = max(DIVERGENCE[precision], MULTIPLIED_DIVERGENCE if narrow else 0.0)
    return Judged("the divergence of its predictions", figure, allow(least, noise))


def judge_loss(logits: Sequence[Array], heard: tuple[Heard, ...], precision: Precision) -> dict[str, float]:
    """What the engine's precision costs on the streams; `logits` are those of the checkpoint's own weights.

    `lost_divergence` in nats a token; `lost_perplexity` relative, on text that the checkpoint's own model would write,
    where every token has its probability; `same_best_token` as a share of the `lost_tokens` that were judged.
    Raises FailedPrecondition (VERIFICATION_FAILED) where so much is lost that it must be another model.
    """
    expected = np.concatenate([rows[one.tokens] for rows, one in zip(logits, heard, strict=True)])
    found = np.concatenate([one.logits for one in heard])
    lost = Judged("the divergence from the checkpoint's own weights", divergence(found, expected), MOST_LOST)
    check(lost, precision)
    return {
        "lost_divergence": lost.figure,
        "lost_perplexity": math.expm1(lost.figure),
        "same_best_token": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "lost_tokens": len(found),
    }


def allow(least: float, noise: float) -> float:
    """What is allowed where float32's errors do as much as `noise` says."""
    return max(least, NOISE_ALLOWED * noise)


def divergence(got: Array, want: Array) -> float:
    """Mean divergence in nats of the predictions `got` from those wanted, both as logits [token, vocabulary].

    Infinite where a logit is not finite.
    """
    if not np.isfinite(got).all():
        return np.inf
    expected, found = _log_softmax(want), _log_softmax(got)
    return float((np.exp(expected) * (expected - found)).sum(axis=1).mean())


def relative_errors(got: Array, before: Array, after: Array) -> npt.NDArray[np.float64]:
    """Of each token, the error of a state of the residual stream, relative to what a part has added to it."""
    added = np.linalg.norm(after - before, axis=1)
    off = np.linalg.norm(got - after, axis=1) / np.maximum(added, 1e-30)
    return np.where(np.isfinite(off), off, np.inf)


def check(judged: Judged, precision: Precision) -> None:
    """Raise FailedPrecondition (VERIFICATION_FAILED) for a figure beyond what is allowed."""
    if judged.margin < 1:
        raise FailedPrecondition(
            Reason.VERIFICATION_FAILED,
            f"the engine is not the checkpoint's model in {precision}: {judged.what} is {judged.figure:.3g}; "
            f"at most {judged.allowed:.3g} is allowed",
            figure=judged.what,
            value=judged.figure,
            bound=judged.allowed,
        )


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    total: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return total
