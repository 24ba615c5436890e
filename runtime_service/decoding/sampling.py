"""From logits to one token: a pure function of the logits, the options, the position and the tokens in the cache.

Knows numbers only: no text, no session, no clock, no state. The order is that of Hugging Face's logits processors
(transformers, `GenerationMixin._get_logits_processor`): repetition penalty, presence and frequency penalty (as in
vLLM, `apply_penalties`, after the repetition penalty), temperature, top-k, top-p, min-p, then one draw. Each step
sees only what the one before it left, and renormalizes. Ties go to the lower token id, everywhere.

Log-probabilities are those of the model: natural logarithm of the softmax of the raw logits, of all tokens.

Where a reply has a form, the tokens that do not fit it are left out after the penalties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime_service.domain.options import GenerationOptions

Logits = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]  # logits, or what penalties made of them
Probabilities = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
FIRST_GUESS = 512  # tokens sorted at first when looking for the nucleus; grows until it is whole


@dataclass(frozen=True)
class Sampled:
    """A token, with its log-probability and the likeliest tokens there when they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # (token id, log-probability), the likeliest first


def sample(
    logits: Logits,
    options: GenerationOptions,
    position: int,
    context: Mapping[int, int],
    allowed: Tokens | None = None,
) -> Sampled:
    """Choose the token that goes to `position`, from `logits` [vocabulary] after the token before it, all finite.

    `context` counts the tokens that the session's cache holds (sinks and window); it is looked at only when a
    penalty is on. Only tokens of `allowed` may come, ids in order, at least one; None: all may.
    """
    scores = _penalized(logits, options, context)
    if allowed is not None:
        scores = scores[allowed]
    place = int(scores.argmax()) if options.temperature == 0 else _draw(scores, options, position)
    token = place if allowed is None else int(allowed[place])
    if options.logprobs is None:
        return Sampled(token)
    return _with_logprobs(token, logits, options.logprobs)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): the first word that Philox4x64-10 gives for key `seed` and `position` as second counter word.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011). No state is kept, so the numbers
    of a turn do not depend on what else the server draws.
    """
    words = np.random.Philox(key=seed, counter=position << 64).random_raw()
    return float(int(words) >> 11) * 2.0**-53


def candidates(scores: Scores, options: GenerationOptions) -> tuple[Tokens, Probabilities]:
    """Tokens that may be drawn and their probabilities, which sum to 1: temperature, top-k, top-p, min-p.

    `scores` [vocabulary] are penalized logits. Without top-k and top-p the tokens come by id, else the likeliest
    first. The likeliest token is always among them.
    """
    count = min(options.top_k or len(scores), len(scores))
    best = float(scores.max())
    tokens = np.arange(count)
    if count < len(scores):
        tokens = largest(scores, count)
        scores = scores[tokens]
    weights = np.exp((scores.astype(np.float64) - best) / options.temperature)  # the likeliest has 1
    if options.top_p < 1:
        kept = _nucleus(scores, weights, options.top_p)
        tokens, weights = tokens[kept], weights[kept]
    if options.min_p > 0:  # compares with the likeliest, whose weight is 1 under every normalization
        kept = np.flatnonzero(weights >= options.min_p)
        tokens, weights = tokens[kept], weights[kept]
    return tokens, weights / weights.sum()


def _penalized(logits: Logits, options: GenerationOptions, context: Mapping[int, int]) -> Scores:
    repetition, presence = options.repetition_penalty, options.presence_penalty
    if not context or (repetition == 1 and presence == 0 and options.frequency_penalty == 0):
        return logits
    scores = logits.astype(np.float64)
    tokens = np.fromiter(context.keys(), np.int64, len(context))
    counts = np.fromiter(context.values(), np.float64, len(context))
    seen = scores[tokens]
    seen = np.where(seen > 0, seen / repetition, seen * repetition)
    scores[tokens] = seen - presence - options.frequency_penalty * counts
    return scores


def _draw(scores: Scores, options: GenerationOptions, position: int) -> int:
    """Invert the cumulative distribution at one uniform number."""
    tokens, probabilities = candidates(scores, options)
    cumulative = np.cumsum(probabilities)
    place = np.searchsorted(cumulative, uniform(options.seed, position) * cumulative[-1], side="right")
    return int(tokens[min(int(place), len(tokens) - 1)])


def _nucleus(scores: Scores, weights: Probabilities, top_p: float) -> Tokens:
    """Places of the fewest of the likeliest tokens that together have `top_p` of all of `weights`.

    A nucleus is mostly small, so no more tokens are sorted than it takes; the total is over all of them.
    """
    enough, guess = top_p * weights.sum(), FIRST_GUESS
    while True:
        some = largest(scores, guess)
        needed = int(np.searchsorted(np.cumsum(weights[some]), enough, side="left")) + 1
        if needed <= len(some) or len(some) == len(scores):
            return some[:needed]
        guess *= 8


def largest(scores: Scores, count: int) -> Tokens:
    """Ids of the `count` largest of `scores` [vocabulary], the largest first, lower ids first among equals."""
    if count == 0:
        return np.empty(0, np.int64)
    size = len(scores)
    tokens = np.arange(size)
    if count < size:
        tokens = np.flatnonzero(scores >= np.partition(scores, size - count)[size - count])
    return tokens[_descending(scores[tokens])][:count]


def _descending(scores: Scores) -> Tokens:
    """Places of `scores`, the largest first, lower places first among equals.

    Those of 32 bits are sorted with their places as one number of 64, which takes a sixth of the time.
    """
    if scores.dtype != np.float32:
        return np.argsort(-scores, kind="stable")
    bits = (scores + np.float32(0)).view(np.uint32)  # there is one zero then
    falling = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF))
    keys = falling.astype(np.uint64) << np.uint64(32) | np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _with_logprobs(token: int, logits: Logits, count: int) -> Sampled:
    scores = logits.astype(np.float64)
    best = scores.max()
    total = best + np.log(np.exp(scores - best).sum())
    top = largest(logits, count)
    return Sampled(token, float(scores[token] - total), tuple((int(one), float(scores[one] - total)) for one in top))
