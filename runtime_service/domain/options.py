"""How one turn generates: what a request asks for, and what it becomes once every default is filled in.

Knows ranges and the order of defaults; knows nothing of the wire, of logits or of text. A value comes from the
request, else from the checkpoint's generation_config.json, else from the server's settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from common.errors import FieldViolation, InvalidArgument, Reason
from common.spec.manifest import GenerationDefaults
from runtime_service.domain.response_format import FIELD as FORMAT_FIELD
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.tools import Choice

FIELD = "turn.generation"
MOST_STOPS = 16
LONGEST_STOP = 256  # characters
MOST_STOP_TOKENS = 64
MOST_LOGPROBS = 20
MOST_SPECULATED = 15
SEEDS = 1 << 64
Format = Annotated[ResponseFormat | None, Field(exclude_if=lambda value: value is None)]
"""Not written where there is none: a request of before has the same digest."""


@dataclass(frozen=True)
class RequestedOptions:
    """What a request says: None, or empty, where it says nothing."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool | None = None
    speculated_tokens: int | None = None
    response_format: Format = None
    tool_choice: Choice = None


@dataclass(frozen=True)
class GenerationOptions:
    """What a turn uses, every field concrete; `logprobs` None means that none are wanted."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    speculated_tokens: int = 0
    response_format: Format = None
    tool_choice: Choice = None


@dataclass(frozen=True)
class GenerationLimits:
    """The server's settings, and what the engine of the turn can do."""

    max_new_tokens_default: int
    """Where neither the request nor the checkpoint says how many."""
    max_new_tokens_limit: int
    """A request for more is refused; a checkpoint's default of more is cut to it."""
    vocabulary_size: int
    """Token ids of the engine run from 0 to this, exclusive."""
    decodes_text: bool = True
    """Whether the engine has a tokenizer; without one no stop text could ever match."""
    temperature_default: float = 0.0
    """Where neither the request nor the checkpoint says how to sample."""
    speculated_tokens_default: int = 0
    """Where the request does not say how many tokens to draft."""
    takes_forms: bool = True
    """Whether the engine samples here, where tokens can be left out."""


@dataclass(frozen=True)
class _Range:
    """Values that a number may take; `open_low` leaves out `low` itself."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is inside; NaN and infinities never are."""
        above = value > self.low if self.open_low else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return low if self.high == math.inf else f"{low} and at most {self.high:g}"


RANGES = {
    "max_new_tokens": _Range(1),
    "temperature": _Range(0, 10),
    "top_k": _Range(0),
    "top_p": _Range(0, 1, open_low=True),
    "min_p": _Range(0, 1),
    "repetition_penalty": _Range(0, 10, open_low=True),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "logprobs": _Range(0, MOST_LOGPROBS),
    "speculated_tokens": _Range(0, MOST_SPECULATED),
}


def resolve(
    requested: RequestedOptions,
    defaults: GenerationDefaults,
    limits: GenerationLimits,
    draw_seed: Callable[[], int],
) -> GenerationOptions:
    """Fill in every default; `draw_seed` gives a seed in [0, 2**64) and is called only where none is asked for.

    Raises InvalidArgument with one violation for each thing that is wrong.
    """
    check(requested, limits)
    return GenerationOptions(
        max_new_tokens=_max_new_tokens(requested, defaults, limits),
        temperature=_temperature(requested, defaults, limits),
        top_k=int(_first(requested.top_k, _sound(defaults, "top_k"), 0)),
        top_p=_first(requested.top_p, _sound(defaults, "top_p"), 1.0),
        min_p=_first(requested.min_p, _sound(defaults, "min_p"), 0.0),
        repetition_penalty=_first(requested.repetition_penalty, _sound(defaults, "repetition_penalty"), 1.0),
        presence_penalty=_first(requested.presence_penalty, None, 0.0),
        frequency_penalty=_first(requested.frequency_penalty, None, 0.0),
        seed=draw_seed() if requested.seed is None else requested.seed,
        stop=requested.stop or _sound_stops(defaults, limits),
        stop_token_ids=requested.stop_token_ids,
        logprobs=requested.logprobs,
        ignore_eos=bool(requested.ignore_eos),
        speculated_tokens=int(_first(requested.speculated_tokens, None, limits.speculated_tokens_default)),
        response_format=requested.response_format,
        tool_choice=requested.tool_choice,
    )


def stop_at_special(options: GenerationOptions, find: Callable[[str], int | None]) -> GenerationOptions:
    """The options with stop texts that are special tokens, by `find`, among the stop tokens: they have no text when
    they are generated, and would never be found in it.
    """
    found = {text: token for text in options.stop if (token := find(text)) is not None}
    stop = tuple(text for text in options.stop if text not in found)
    ids = tuple(dict.fromkeys((*options.stop_token_ids, *found.values())))
    return replace(options, stop=stop, stop_token_ids=ids)


def check(requested: RequestedOptions, limits: GenerationLimits) -> None:
    """Raise InvalidArgument naming every field that is out of range.

    The reason is TOKEN_OUT_OF_VOCABULARY when nothing else is wrong, else INVALID_FIELD.
    """
    tokens = tuple(_token_violations(requested, limits))
    others = (
        *_number_violations(requested, limits),
        *_stop_violations(requested, limits),
        *_format_violations(requested, limits),
    )
    _refuse((*others, *tokens), Reason.INVALID_FIELD if others else Reason.TOKEN_OUT_OF_VOCABULARY)


def check_counts(stops: int, stop_tokens: int) -> None:
    """Raise InvalidArgument for more texts or tokens to stop at than a turn may have; cheap, however many they are."""
    _refuse(tuple(_count_violations(stops, stop_tokens)), Reason.INVALID_FIELD)


def _refuse(violations: tuple[FieldViolation, ...], reason: Reason) -> None:
    if violations:
        message = "; ".join(violation.description for violation in violations)
        raise InvalidArgument(reason, message, violations=violations)


def _number_violations(requested: RequestedOptions, limits: GenerationLimits) -> Iterator[FieldViolation]:
    for name, allowed in RANGES.items():
        value = getattr(requested, name)
        if value is not None and not allowed.holds(value):
            yield _violation(name, f"{name} is {value:g}; it has to be {allowed}")
    tokens = requested.max_new_tokens
    if tokens is not None and tokens > limits.max_new_tokens_limit:
        limit = limits.max_new_tokens_limit
        yield _violation("max_new_tokens", f"max_new_tokens is {tokens}; this server allows at most {limit}")
    if requested.seed is not None and not 0 <= requested.seed < SEEDS:
        yield _violation("seed", f"seed is {requested.seed}; it has to be at least 0 and below 2**64")


def _stop_violations(requested: RequestedOptions, limits: GenerationLimits) -> Iterator[FieldViolation]:
    if requested.stop and not limits.decodes_text:
        yield _violation("stop", "stop has texts, but this engine has no tokenizer; use stop_token_ids")
    yield from _count_violations(len(requested.stop), len(requested.stop_token_ids))
    for index, text in enumerate(requested.stop[:MOST_STOPS]):
        name = f"stop[{index}]"
        if not text:
            yield _violation(name, f"{name} is empty; a stop text has at least one character")
        elif len(text) > LONGEST_STOP:
            yield _violation(name, f"{name} has {len(text)} characters; at most {LONGEST_STOP} are allowed")


def _format_violations(requested: RequestedOptions, limits: GenerationLimits) -> Iterator[FieldViolation]:
    if requested.tool_choice is not None and requested.tool_choice.is_forced:
        yield from _forced_violations(requested, limits)
    if requested.response_format is None:
        return
    if not limits.takes_forms:
        yield FieldViolation(FORMAT_FIELD, "response_format is set, but engines for TensorRT-LLM cannot hold to one")
    elif not limits.decodes_text:
        yield FieldViolation(FORMAT_FIELD, "response_format is set, but this engine has no tokenizer")
    if requested.ignore_eos:
        yield _violation("ignore_eos", "ignore_eos is set with response_format: a reply ends where its form does")


def _forced_violations(requested: RequestedOptions, limits: GenerationLimits) -> Iterator[FieldViolation]:
    if not limits.takes_forms:
        yield _violation("tool_choice", "tool_choice asks for a call, but engines for TensorRT-LLM cannot hold to one")
    for name in ("response_format", "ignore_eos"):
        if getattr(requested, name):
            yield _violation(name, f"{name} is set with a tool_choice that asks for a call; one of them has to go")


def _count_violations(stops: int, stop_tokens: int) -> Iterator[FieldViolation]:
    if stops > MOST_STOPS:
        yield _violation("stop", f"stop has {stops} texts; at most {MOST_STOPS} are allowed")
    if stop_tokens > MOST_STOP_TOKENS:
        text = f"stop_token_ids has {stop_tokens} tokens; at most {MOST_STOP_TOKENS} are allowed"
        yield _violation("stop_token_ids", text)


def _token_violations(requested: RequestedOptions, limits: GenerationLimits) -> Iterator[FieldViolation]:
    size = limits.vocabulary_size
    for index, token in enumerate(requested.stop_token_ids[:MOST_STOP_TOKENS]):
        if not 0 <= token < size:
            name = f"stop_token_ids[{index}]"
            yield _violation(name, f"{name} is {token}; token ids of this engine run from 0 to {size - 1}")


def _violation(name: str, description: str) -> FieldViolation:
    return FieldViolation(f"{FIELD}.{name}", description)


def _max_new_tokens(requested: RequestedOptions, defaults: GenerationDefaults, limits: GenerationLimits) -> int:
    fallback = _first(None, _sound(defaults, "max_new_tokens"), limits.max_new_tokens_default)
    return int(_first(requested.max_new_tokens, min(fallback, limits.max_new_tokens_limit), 0))


def _temperature(requested: RequestedOptions, defaults: GenerationDefaults, limits: GenerationLimits) -> float:
    """`do_sample: false` is how a checkpoint says greedy, whatever temperature stands beside it, and `true` alone how
    it says a temperature of 1.
    """
    if requested.temperature is not None:
        return requested.temperature
    if defaults.do_sample is False:
        return 0.0
    return _first(None, _sound(defaults, "temperature"), 1.0 if defaults.do_sample else limits.temperature_default)


def _first(asked: float | None, checkpoint: float | None, fallback: float) -> float:
    if asked is not None:
        return asked
    return fallback if checkpoint is None else checkpoint


def _sound_stops(defaults: GenerationDefaults, limits: GenerationLimits) -> tuple[str, ...]:
    """A checkpoint's stop texts, unless a request would be refused for them."""
    stops = RequestedOptions(stop=defaults.stop_strings or ())
    return () if any(_stop_violations(stops, limits)) else stops.stop


def _sound(defaults: GenerationDefaults, name: str) -> float | None:
    """A checkpoint's default, unless it is one that a request would be refused for."""
    value: float | None = getattr(defaults, name)
    return value if value is not None and RANGES[name].holds(value) else None
