"""Writes `golden.json`: what the reference makes of the golden streams, and how far off a right engine may be.

Bounds are what VERIFY allows, and four times what the engine that VERIFY has just passed was off: on another processor
sums end in other digits, and roundings fall otherwise, but by no more than they do between the reference and here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from builder_service.model.model import Model
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.golden_streams import as_reference
from builder_service.verify.judgement import NOISE_ALLOWED, Judged, check
from builder_service.verify.listen import Evidence
from builder_service.verify.reference_model import Array, Stream
from common.golden.golden import Golden, GoldenRows, GoldenStep, GoldenStream
from common.golden.judgement import divergence, merged, row_error
from common.spec.model_spec import Precision

Logits: TypeAlias = npt.NDArray[np.floating]
KeysAndValues: TypeAlias = tuple[Logits, Logits]
LIKELY = 24
"""Tokens whose probability is told of each prediction."""
CHANNELS = 32
"""Numbers of a token's keys, and of its values, that are told."""
ROUNDING = 1e-2
"""Relative noise as large as rounding activations to 8 bits in blocks of 32. Processors without a kernel for that
multiply them as they are, and are right too (tried: int4 without AVX2)."""
ROUGH_ALLOWED = 2.0
"""Times what that noise does."""
MOST_ROW_ERROR = 0.5
"""Keys and values of which a right engine may be further off say nothing."""
EARLY, LAYERS = 3, 6
"""Layers whose keys and values are told: so many from the first on, so many in all."""
FEWER = 2.0
"""Times what VERIFY allows of predictions: a mean over a tenth of its tokens scatters more."""
WORST_ALLOWED = 2.0
"""Times what noise does to the keys or values of the token that it does most to."""
ROW_ERROR = {
    Precision.FP32: 1e-5,
    Precision.FP16: 4e-3,
    Precision.BF16: 3e-2,
    Precision.INT8: 2e-3,
    Precision.INT4: 2e-3,
    Precision.KEEP: 2e-3,
}
"""Relative error of keys and values that is allowed however calm the model is."""
WIDE = 192
"""Of a residual stream that is narrower, one activation that rounds otherwise is a larger share."""
POINT_DIGITS, DIGITS = 9, 7
"""Of log-probabilities, behind the point; of keys and values, in all."""


class GoldenRecorder:
    """Hears the reference while VERIFY runs it, then has the golden streams with what is expected of them."""

    def __init__(self, evidence: Evidence, model: Model, weight_format: WeightFormat) -> None:
        shapes, precision = model.architecture, weight_format.arithmetic
        self._golden, self._answers, self._precision = evidence.golden, evidence.answers, weight_format.precision
        self._asked = tuple(map(as_reference, evidence.golden))
        blocks = precision in (Precision.INT4, Precision.KEEP) or (precision is Precision.INT8 and model.experts)
        self._rough = tuple(replace(stream, noise=ROUNDING) for stream in self._asked) if blocks else ()
        self._channels = _spread(shapes.kv_heads * shapes.head_dim)
        later = np.linspace(EARLY, shapes.layers - 1, LAYERS - EARLY).round()
        self.layers = tuple(sorted({*range(EARLY), *map(int, later)} & {*range(shapes.layers)}))
        judged = weight_format.judged
        narrow = 1.0 if judged is Precision.FP32 else max(1.0, WIDE / shapes.hidden) ** 1.5
        self._least = ROW_ERROR[judged] * narrow
        self._pair: tuple[Stream, ...] = ()
        self._rows: dict[tuple[int, int], tuple[Array, Array]] = {}  # by layer and the stream's identity
        self._logits: Sequence[Array] = ()
        self._allowed = 0.0

    def attend(self, said: tuple[Stream, ...]) -> tuple[Stream, ...]:
        """Streams that the reference is to compute too; the last two of `said` are one, without and with noise."""
        self._pair = said[-2:]
        return (*self._asked, *self._rough)

    def wants(self, layer: int, stream: Stream) -> bool:
        known = (*self._asked, *self._rough, *self._pair)
        return layer in self.layers and any(stream is one for one in known)

    def take(self, layer: int, stream: Stream, keys: Array, values: Array) -> None:
        self._rows[layer, id(stream)] = keys.reshape(len(keys), -1), values.reshape(len(values), -1)

    def hear(self, logits: Sequence[Array], allowed: float) -> None:
        """The reference's logits of the streams, one array [token, vocabulary] each, and what VERIFY allows.

        Of `logits`, those of other streams come last.
        """
        self._logits, self._allowed = logits[: len(self._asked) + len(self._rough)], allowed

    def written(self) -> Golden:
        """The streams with what the reference has said; rows that a right engine may have otherwise are left out.

        Raises FailedPrecondition (VERIFICATION_FAILED) where the engine itself is off by more than is allowed.
        """
        steps = tuple(map(_with_predictions, self._golden, self._logits))
        tolerances = {layer: self._row_tolerance(layer) for layer in self.layers}
        told = [layer for layer in self.layers if tolerances[layer] < MOST_ROW_ERROR]
        streams = tuple(map(partial(self._expected, told), self._golden, self._asked, steps))
        return Golden(
            tolerance=self._tolerance(steps),
            channels=tuple(map(int, self._channels)),
            row_tolerances={layer: tolerances[layer] for layer in told},
            streams=streams,
        )

    def _tolerance(self, steps: Sequence[Sequence[GoldenStep]]) -> float:
        own = _mean_divergence(steps, [answer.logits for answer in self._answers])
        said = zip(self._golden, self._logits[len(steps) :], strict=False)
        rough = [tuple(rows[_ends(stream)]) for stream, rows in said]
        allowed = max(FEWER * self._allowed, ROUGH_ALLOWED * _mean_divergence(steps, rough) if rough else 0.0)
        check(Judged("the divergence of its predictions in golden streams", own, allowed), self._precision)
        return _short(max(allowed, NOISE_ALLOWED * own))

    def _expected(
        self, layers: Sequence[int], stream: GoldenStream, asked: Stream, steps: tuple[GoldenStep, ...]
    ) -> GoldenStream:
        told = [(layer, self._compared(layer, stream, asked)) for layer in layers]
        rows = tuple(
            GoldenRows(layer=layer, keys=_numbers(keys), values=_numbers(values)) for layer, (keys, values) in told
        )
        return stream.model_copy(update={"steps": steps, "rows": rows})

    def _compared(self, layer: int, stream: GoldenStream, asked: Stream) -> tuple[Array, Array]:
        """Keys and values of the tokens and channels that are told."""
        count = len(asked.tokens)
        tokens = [*range(stream.sinks), *range(count - stream.kept, count)]
        keys, values = (rows[np.ix_(tokens, self._channels)] for rows in self._rows[layer, id(asked)])
        return keys, values

    def _row_tolerance(self, layer: int) -> float:
        calm, noisy = (self._rows[layer, id(stream)] for stream in self._pair)
        noise = [_noise(got, want) for got, want in zip(noisy, calm, strict=True)]
        wanted = [self._compared(layer, *one) for one in zip(self._golden, self._asked, strict=True)]
        rough = [self._compared(layer, *one) for one in zip(self._golden, self._rough, strict=False)]
        own = [
            (answer.keys[layer][:, self._channels], answer.values[layer][:, self._channels]) for answer in self._answers
        ]
        bounds = (*noise, NOISE_ALLOWED * _largest_error(own, wanted), ROUGH_ALLOWED * _largest_error(rough, wanted))
        return _short(max(self._least, *bounds))


def _spread(width: int) -> npt.NDArray[np.int64]:
    """CHANNELS numbers below `width` or fewer, in all heads, even and odd ones."""
    places = np.arange(CHANNELS)
    return np.unique((places * width // CHANNELS + places % 2).clip(0, width - 1))


def _ends(stream: GoldenStream) -> npt.NDArray[np.int64]:
    """The last token of every step, as they are counted in the stream."""
    return np.cumsum([len(step.tokens) for step in stream.steps]) - 1


def _mean_divergence(steps: Sequence[Sequence[GoldenStep]], logits: Sequence[Sequence[Logits]]) -> float:
    pairs = zip(steps, logits, strict=True)
    return float(np.mean([divergence(*one) for own, said in pairs for one in zip(own, said, strict=True)]))


def _largest_error(got: Sequence[KeysAndValues], want: Sequence[KeysAndValues]) -> float:
    """Of keys or values of a stream; 0 where there is none."""
    pairs = (pair for one, other in zip(got, want, strict=False) for pair in zip(one, other, strict=True))
    return max((row_error(*pair) for pair in pairs), default=0.0)


def _noise(noisy: Array, calm: Array) -> float:
    """What the error of a few tokens may be by the error that noise makes, of all tokens and of the worst one."""
    worst = max(row_error(got, want) for got, want in zip(noisy, calm, strict=True))
    return max(NOISE_ALLOWED * row_error(noisy, calm), WORST_ALLOWED * worst)


def _with_predictions(stream: GoldenStream, logits: Array) -> tuple[GoldenStep, ...]:
    return tuple(_with_prediction(step, logits[end]) for step, end in zip(stream.steps, _ends(stream), strict=True))


def _with_prediction(step: GoldenStep, logits: npt.NDArray[np.floating]) -> GoldenStep:
    likely = tuple(map(int, np.argsort(-logits, kind="stable")[:LIKELY]))
    known, others = merged(logits, likely)
    update = {
        "likely": likely,
        "log_probabilities": tuple(round(float(x), POINT_DIGITS) for x in known),
        "others": None if others is None else round(others, POINT_DIGITS),
    }
    return step.model_copy(update=update)


def _numbers(rows: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{number:.{DIGITS}g}") for number in row) for row in rows)


def _short(bound: float) -> float:
    """Two digits: the others depend on the number of cores."""
    return float(f"{bound:.2g}")
