"""VERIFY: an engine against the float64 reference, by what it says and by what each of its parts does.

The reference rounds weights and activations as the precision does (`fake_quantize`), so what is left is the error of
float32 sums, and with int8 and int4 the activations that it moves to the other side of a rounding. How much that
comes to is the model's own affair, so it is measured: the reference runs once more with noise of float32's size on
all that it multiplies, and the engine may be off by a small multiple of what that does.

Twice: **what it says** is judged by the mean divergence of its predictions. From the first layer to the logits,
roundings that fall otherwise add up to as much as quantization itself costs, and a fault smaller than that is hidden.
So **every part by itself** is judged too, where the engine's residual stream can be read: attention and feed-forward
of every layer on the very numbers that the engine gave them. There a wrong scale of 2% stands out in every precision.

**Weights** were rounded to suit a text, and cannot be computed anew. The reference takes the engine's own, once each
matrix has been found where the checkpoint has it: with scales that its blocks may have, within steps of them, and
neither larger nor smaller on the whole.

Last, the engine is held against the reference with the checkpoint's own weights, which are neither rounded nor turned
into another basis: that says what the precision costs, and whether the other basis is one of the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from builder_service.checkpoint.checkpoint import Tensors
from builder_service.graph.engine_weights import weigh
from builder_service.model.model import Model
from builder_service.model.turned_tensors import held_tensors, inner_basis
from builder_service.model.weight_format import ROUNDED, WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized, Weights
from builder_service.verify.golden import GoldenRecorder
from builder_service.verify.judgement import (
    Judged,
    check,
    judge_loss,
    judge_part,
    judge_predictions,
    judge_weights,
)
from builder_service.verify.kept_weights import KeptWeights, SharedParts
from builder_service.verify.listen import Evidence
from builder_service.verify.reference_model import ReferenceModel, Stream
from builder_service.verify.sink_attention import SinkAttention
from common.spec.manifest import Rope
from common.spec.model_spec import Precision

_ROUNDED = 0.75  # of the stage, the reference that rounds: more streams go through it
_SUM = 1e-6  # relative: what a sum of some thousand products in float32 is off by
NOISE = dict.fromkeys(Precision, _SUM) | {Precision.FP16: 2.0**-11, Precision.BF16: 2.0**-8}
"""Relative error of what the reference does not round: in 16 bits also products, keys and values."""


def verify(  # noqa: PLR0917 - an engine, and all that it was made from
    evidence: Evidence,
    tensors: Tensors,
    model: Model,
    rope: Rope,
    weight_format: WeightFormat,
    progress: Callable[[float], None] = lambda _: None,
    recorder: GoldenRecorder | None = None,
) -> dict[str, float]:
    """Figures of an engine that says what it ought to; `progress` gets the share done, `recorder` golden streams.

    `divergence` is in nats a token, `part_error` that of the part that is nearest to its bound, relative to what the
    part adds; `weight_*` are those of the matrix nearest to its bound (`weight_distance` in steps); `allowed_*` are the
    bounds, `margin` says how many times as far off the engine might be, and what `judge_loss` finds its cost.
    `sink_attention*` say how much attention the sinks get from queries that are past their window.
    Raises FailedPrecondition (VERIFICATION_FAILED) with figure and bound.
    """
    precision, arithmetic, sinks = weight_format.precision, weight_format.arithmetic, SinkAttention()
    judged, narrow = weight_format.judged, weight_format.narrow_cache
    exact_already = precision is Precision.FP32 and not narrow
    steps, share = 2 * model.architecture.layers + 1, 1.0 if exact_already else _ROUNDED
    weights, parts = _weights(evidence, tensors, model, weight_format)
    reference = ReferenceModel(weights, model, rope, sinks, recorder, narrow)
    said = _shaken(evidence.streams, arithmetic)
    streams = (*said, *(recorder.attend(said) if recorder else ()), *_shaken(evidence.traced, arithmetic))
    for number, part in enumerate(reference.parts(streams)):
        if evidence.probed:
            for one in judge_part(number, part, evidence.probed, judged, narrow=narrow):
                check(one, precision)
                parts.append(one)
        progress(share * (number + 1) / steps)
    predictions = judge_predictions(part.after, evidence.heard, judged, narrow=narrow)
    check(predictions, precision)
    if recorder:
        recorder.hear(part.after[len(said) :], predictions.allowed)
    figures = _figures(predictions, parts, sinks)
    if exact_already:
        return _shortened(figures)
    exact = ReferenceModel(FakeQuantized(tensors, WeightFormat(Precision.FP32)), model, rope)
    return _shortened(figures | _loss(exact, evidence, precision, lambda done: progress(share + (1 - share) * done)))


def _loss(
    exact: ReferenceModel, evidence: Evidence, precision: Precision, progress: Callable[[float], None]
) -> dict[str, float]:
    """What the engine's precision costs, by the checkpoint's own weights."""
    steps = 2 * exact.architecture.layers + 1
    for number, part in enumerate(exact.parts(evidence.streams)):
        unrounded = part.after
        progress((number + 1) / steps)
    return judge_loss(unrounded, evidence.heard, precision)


def _weights(
    evidence: Evidence, tensors: Tensors, model: Model, weight_format: WeightFormat
) -> tuple[Weights, list[Judged]]:
    """The weights as the engine holds them, and how those that are its own were judged."""
    if weight_format.precision is Precision.KEEP:
        assert isinstance(tensors, SharedParts), tensors
        return KeptWeights(tensors, weight_format.kept), []
    held, inner = held_tensors(tensors, model, weight_format), inner_basis(model, weight_format)
    if weight_format.precision not in ROUNDED or evidence.weights is None:
        return FakeQuantized(held, weight_format, inner), []
    judged = [one for found in weigh(evidence.weights, held) for one in judge_weights(found)]
    if judged:
        check(min(judged, key=lambda one: one.margin), weight_format.precision)
    return FakeQuantized(held, weight_format, inner, evidence.weights), judged


def _shaken(streams: tuple[Stream, ...], arithmetic: Precision) -> tuple[Stream, ...]:
    """The streams, and the last of them once more, with noise."""
    return (*streams, *(replace(stream, noise=NOISE[arithmetic]) for stream in streams[-1:]))


def _figures(predictions: Judged, parts: list[Judged], sinks: SinkAttention) -> dict[str, float]:
    figures = {
        "divergence": predictions.figure,
        "allowed_divergence": predictions.allowed,
        "margin": min(judged.margin for judged in (predictions, *parts)),
    }
    for name in dict.fromkeys(judged.kind for judged in parts):
        worst = min((judged for judged in parts if judged.kind == name), key=lambda judged: judged.margin)
        figures |= {name: worst.figure, f"allowed_{name}": worst.allowed}
    return figures | sinks.figures()


def _shortened(figures: dict[str, float]) -> dict[str, float]:
    """Without the digits that depend on the number of cores: equal builds have equal manifests."""
    return {name: float(f"{value:.6g}") for name, value in figures.items()}
