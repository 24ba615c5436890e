"""How far an engine's answers to golden streams are from what they ought to be.

Two figures. The divergence of its predictions sees the whole model, through the noise that roundings make of float32's
last digits on their way through all layers. Keys and values of single layers see less of it, the fewer layers lie
before: what a kernel does wrong, it does in the first layers too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import FailedPrecondition, Reason
from common.golden.golden import Golden, GoldenRows, GoldenStep, GoldenStream
from common.golden.rehearsal import Answer

Array = npt.NDArray[np.float64]
_LEAST = 1e-30


@dataclass(frozen=True)
class Figure:
    """Something measured, what is allowed of it, and where it is worst."""

    what: str
    value: float
    allowed: float
    stream: int
    position: int
    expected: str
    got: str

    @property
    def margin(self) -> float:
        """How many times the value is allowed; below 1 it is too much."""
        return self.allowed / max(self.value, _LEAST)


def judge(golden: Golden, answers: Sequence[Answer]) -> Figure:
    """The figure with the smallest margin."""
    return min(_figures(golden, answers), key=lambda figure: figure.margin)


def check(figure: Figure, engine: str) -> None:
    """Raise FailedPrecondition (ENGINE_UNVERIFIED) for a figure beyond what is allowed of `engine`."""
    if figure.margin < 1:
        raise FailedPrecondition(
            Reason.ENGINE_UNVERIFIED,
            f"{engine} does not compute here what it ought to, and does not serve: {figure.what} is {figure.value:.3g} "
            f"in its golden streams, at most {figure.allowed:.3g} is allowed; worst in stream {figure.stream} at "
            f"position {figure.position}: expected {figure.expected}, got {figure.got}",
            engine=engine,
            figure=figure.what,
            value=f"{figure.value:.6g}",
            bound=f"{figure.allowed:.6g}",
            stream=figure.stream,
            position=figure.position,
            expected=figure.expected,
            got=figure.got,
        )


def divergence(step: GoldenStep, logits: npt.NDArray[np.float32]) -> float:
    """Divergence in nats of a prediction, where all tokens that are not `likely` are counted as one.

    Never more than that of all tokens. Infinite where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        return np.inf
    found, others = merged(logits, step.likely)
    expected = np.array(step.log_probabilities)
    total = float(np.exp(expected) @ (expected - found))
    if others is not None and step.others is not None:
        total += float(np.exp(step.others)) * (step.others - others)
    return max(0.0, total)


def merged(logits: npt.NDArray[np.floating], likely: Sequence[int]) -> tuple[Array, float | None]:
    """Log-probabilities of `likely` tokens, and that of all others together; None where there are no others."""
    every, other = log_softmax(logits), np.ones(len(logits), bool)
    other[list(likely)] = False
    rest = every[other]
    top = float(rest.max(initial=-np.inf))
    return every[list(likely)], top + float(np.log(np.exp(rest - top).sum())) if len(rest) else None


def log_softmax(logits: npt.NDArray[np.floating]) -> Array:
    """Of the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def row_error(got: npt.NDArray[np.floating], want: npt.NDArray[np.floating]) -> float:
    """Error of numbers of one kind, relative to them; infinite where one is not finite."""
    size = max(float(np.linalg.norm(want)), _LEAST)
    off = float(np.linalg.norm(got.astype(np.float64) - want)) / size
    return off if np.isfinite(off) else np.inf


def _figures(golden: Golden, answers: Sequence[Answer]) -> Iterator[Figure]:
    yield _predictions(golden, answers)
    for index, (stream, answer) in enumerate(zip(golden.streams, answers, strict=True)):
        for rows in stream.rows:
            yield _rows(golden, index, stream, rows, answer)


def _predictions(golden: Golden, answers: Sequence[Answer]) -> Figure:
    found = [
        (divergence(step, logits), index, step, logits)
        for index, (stream, answer) in enumerate(zip(golden.streams, answers, strict=True))
        for step, logits in zip(stream.steps, answer.logits, strict=True)
    ]
    mean = float(np.mean([value for value, *_ in found]))
    _, index, step, logits = max(found, key=lambda one: one[0])
    token, position = step.likely[0], step.position + len(step.tokens) - 1
    expected, got = np.exp(step.log_probabilities[0]), np.exp(log_softmax(logits)[token])
    return Figure(
        "the divergence of its predictions",
        mean,
        golden.tolerance,
        index,
        position,
        f"token {token} with probability {expected:.6g}",
        f"{got:.6g}",
    )


def _rows(golden: Golden, index: int, stream: GoldenStream, rows: GoldenRows, answer: Answer) -> Figure:
    kinds = (("keys", answer.keys, rows.keys), ("values", answer.values, rows.values))
    compared = [
        (kind, array[rows.layer][:, list(golden.channels)].astype(np.float64), np.array(want))
        for kind, array, want in kinds
    ]
    kind, got, want = max(compared, key=lambda one: row_error(one[1], one[2]))
    off = np.nan_to_num(np.abs(got - want), nan=np.inf)
    token, channel = np.unravel_index(int(off.argmax()), off.shape)
    positions = [*range(stream.sinks), *range(stream.end - stream.kept, stream.end)]
    return Figure(
        f"the error of the {kind} of layer {rows.layer}",
        row_error(got, want),
        golden.row_tolerances[rows.layer],
        index,
        positions[int(token)],
        f"{want[token, channel]:.6g} in channel {golden.channels[int(channel)]}",
        f"{got[token, channel]:.6g}",
    )
