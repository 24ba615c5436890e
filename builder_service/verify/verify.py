"""VERIFY: an engine against the float64 reference, on short streams that start just before the ring's end.

Two sessions run in one batch, with a free slot between them where there is room: one with the engine's own window,
one with less, far out in its conversation. They feed chunks, single tokens and nothing at all by turns, so that
splits, padding, idle slots, eviction and both angles take part. Both jump from their sinks over all tokens between,
which are seen as zeros.

The reference rounds weights and activations as the precision does (`rounded`). What is left is the error of float32
sums, and with int8 and int4 the activations that it moves to the other side of a rounding. How much that comes to is
the model's own affair: 1e-6 of the largest logit in fp32, up to 0.02 in quantized models of a few dozen dimensions,
0.2 in 22 layers of random int8 weights. So it is measured: the reference runs every stream twice, once with noise of
float32's size on all that it multiplies, and the engine may be off by a small multiple of what that does.
A window or a sink's distance that is off by one, frequencies off by 2%, one matrix turned around: 0.13 to 0.7 in the
mean, in small random models; the mildest fault that was tried, a norm's epsilon of 1e-2 for 1e-5, 0.03.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.model.model import Model
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from builder_service.verify.reference_model import ReferenceModel, Stream
from common.engine.engine import Engine, Feed
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import Rope
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow, linear_run

SINKS_FED = 8
BEFORE_THE_END = 5  # tokens between the jump and the ring's end
FAR = 1_000_000
NOISE_ALLOWED = 2.0  # times what the noise does
ERROR_ALLOWED = 0.7  # never more: logits of unrelated tokens differ by 1 and more
SIZES = (4, 1, 0, 3, 1, 1, 64, 2, 0, 1, 7, 1)  # tokens of one step after another; what does not fit is cut


@dataclass(frozen=True)
class Tolerance:
    """Bounds on the error of a token's logits: the largest of their errors, relative to the largest logit."""

    largest: float
    mean: float


TOLERANCES = {
    Precision.FP32: Tolerance(largest=1e-4, mean=2e-5),
    Precision.FP16: Tolerance(largest=2**-6, mean=2**-8),
    Precision.BF16: Tolerance(largest=2**-3, mean=2**-5),
    Precision.INT8: Tolerance(largest=1e-1, mean=2e-2),
    Precision.INT4: Tolerance(largest=1e-1, mean=2e-2),
}
"""Allowed however calm the model is."""

_SUM = 1e-6  # relative: what a sum of some thousand products in float32 is off by
NOISE = dict.fromkeys(Precision, _SUM) | {Precision.FP16: 2.0**-11, Precision.BF16: 2.0**-8}
"""Relative error of what the reference does not round: in 16 bits also products, keys and values."""


def verify(  # noqa: PLR0917 - an engine, and all that it was made from
    engine: Engine,
    tensors: Tensors,
    model: Model,
    rope: Rope,
    geometry: Geometry,
    weight_format: WeightFormat,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, float]:
    """Figures of an engine that says what it ought to; `progress` gets the share done, from 0 to 1.

    `relative_error_*` is the engine's, `allowed_error_*` the bound that it met. Leaves all slots cleared. Raises
    FailedPrecondition (VERIFICATION_FAILED) with figure and bound.
    """
    streams = plan_streams(geometry, model.architecture.vocabulary)
    precision = weight_format.precision
    noisy = tuple(replace(stream, noise=NOISE[precision]) for stream in streams)
    reference = ReferenceModel(FakeQuantized(tensors, weight_format), model, rope)
    logits = reference.logits((*streams, *noisy), lambda share: progress(0.9 * share))
    expected, shaken = logits[: len(streams)], logits[len(streams) :]
    got = list(run(engine, streams))
    noise = compare([(shaken[stream][token], expected[stream][token]) for stream, token, _ in got])
    figures = compare([(logits, expected[stream][token]) for stream, token, logits in got])
    progress(1.0)
    allowed = allow(TOLERANCES[precision], noise)
    check(figures, allowed)
    figures |= {"allowed_error_largest": allowed.largest, "allowed_error_mean": allowed.mean}
    return {name: _short(value) for name, value in figures.items()}


def plan_streams(geometry: Geometry, vocabulary: int) -> tuple[Stream, Stream]:
    """A session with the engine's whole window, and one with less far out, both about to cross the ring's end."""
    full, less = SessionWindow(geometry.sinks, geometry.window), SessionWindow(geometry.sinks // 2, 0)
    less = SessionWindow(less.sinks, min(geometry.window, 12))
    return _stream(geometry, full, 0, 24, vocabulary), _stream(geometry, less, FAR, 44, vocabulary)


def run(engine: Engine, streams: tuple[Stream, ...]) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """Feed the streams; yields stream, index of the token, and the logits after it."""
    slots = [min(2 * index, engine.geometry.slots - 1) for index in range(len(streams))]
    together = len(set(slots)) == len(slots)
    for group in [range(len(streams))] if together else [[index] for index in range(len(streams))]:
        _clear(engine)
        yield from _run_group(engine, {index: (slots[index], streams[index]) for index in group})
    _clear(engine)


def compare(pairs: list[tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]]) -> dict[str, float]:
    """Errors of logits, relative to the largest that was expected of their token; not finite is infinitely wrong."""
    errors = np.array([np.abs(got - want).max() / np.abs(want).max() for got, want in pairs])
    errors[~np.isfinite(errors)] = np.inf
    return {
        "compared_tokens": float(len(pairs)),
        "relative_error_largest": float(errors.max()),
        "relative_error_mean": float(errors.mean()),
        "same_best_token": float(np.mean([got.argmax() == want.argmax() for got, want in pairs])),
    }


def allow(least: Tolerance, noise: dict[str, float]) -> Tolerance:
    """What an engine may be off by, where float32's errors do as much as `noise` says."""

    def bound(floor: float, figure: float) -> float:
        return min(max(floor, NOISE_ALLOWED * figure), ERROR_ALLOWED)

    return Tolerance(
        largest=bound(least.largest, noise["relative_error_largest"]),
        mean=bound(least.mean, noise["relative_error_mean"]),
    )


def check(figures: dict[str, float], tolerance: Tolerance) -> None:
    """Raises FailedPrecondition (VERIFICATION_FAILED) for an error beyond its bound."""
    for figure, bound in (("relative_error_mean", tolerance.mean), ("relative_error_largest", tolerance.largest)):
        if not figures[figure] <= bound:
            raise FailedPrecondition(
                Reason.VERIFICATION_FAILED,
                f"the engine's logits are not the model's: {figure} is {figures[figure]:.3g} of the largest logit over "
                f"{figures['compared_tokens']:.0f} tokens; at most {bound:g} is allowed",
                figure=figure,
                value=figures[figure],
                bound=bound,
            )


def _short(value: float) -> float:
    """Without the digits that depend on the number of cores: equal builds have equal manifests."""
    return float(f"{value:.6g}")


def _clear(engine: Engine) -> None:
    for slot in range(engine.geometry.slots):
        engine.clear(slot)


def _stream(geometry: Geometry, window: SessionWindow, after: int, count: int, vocabulary: int) -> Stream:
    """Some sinks, then `count` tokens from just before the first end of the ring behind `after`."""
    fed = min(window.sinks, SINKS_FED)
    laps = 1 + (after + BEFORE_THE_END) // geometry.ring
    start = window.sinks + laps * geometry.ring - BEFORE_THE_END
    positions = (*range(fed), *range(start, start + count))
    tokens = np.random.default_rng(start).integers(0, vocabulary, len(positions))
    return Stream(window.sinks, window.window, positions, tuple(tokens.tolist()))


def _run_group(
    engine: Engine, group: dict[int, tuple[int, Stream]]
) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    done = dict.fromkeys(group, 0)
    turn = 0
    while any(done[index] < len(stream.tokens) for index, (_, stream) in group.items()):
        sizes = {index: SIZES[(turn + 5 * index) % len(SIZES)] for index in group}
        feeds = {index: _feed(engine.geometry, *group[index], done[index], sizes[index]) for index in group}
        turn += 1
        busy = [index for index, feed in feeds.items() if feed.tokens]
        if not busy:
            continue
        for index, logits in zip(busy, engine.step(tuple(feeds.values())), strict=True):
            done[index] += len(feeds[index].tokens)
            yield index, done[index] - 1, logits
            _zero_ahead_of_jump(engine, feeds[index], group[index][1], done[index])


def _zero_ahead_of_jump(engine: Engine, fed: Feed, stream: Stream, done: int) -> None:
    """Before a jump, bring back to zero what padding has written ahead: it would be seen as skipped tokens."""
    position = fed.position + len(fed.tokens)
    if done < len(stream.positions) and stream.positions[done] != position:
        engine.import_slot(fed.slot, engine.export_slot(fed.slot, position, fed.window))


def _feed(geometry: Geometry, slot: int, stream: Stream, done: int, size: int) -> Feed:
    """Up to `size` tokens that follow one another; none at the stream's end."""
    window = SessionWindow(stream.sinks, stream.window)
    if done == len(stream.tokens):
        return Feed(slot, stream.positions[-1] + 1, window)
    position = stream.positions[done]
    size = min(size, linear_run(geometry, window.sinks, position))
    follow = [stream.positions[done + k] == position + k for k in range(min(size, len(stream.tokens) - done))]
    return Feed(slot, position, window, stream.tokens[done : done + sum(follow)])
