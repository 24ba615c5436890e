import dataclasses
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument, Reason
from common.spec.manifest import GenerationDefaults
from runtime_service.domain.options import (
    GenerationLimits,
    GenerationOptions,
    RequestedOptions,
    resolve,
    stop_at_special,
)
from runtime_service.domain.response_format import ResponseFormat

LIMITS = GenerationLimits(max_new_tokens_default=256, max_new_tokens_limit=1024, vocabulary_size=1000)
SILENT = GenerationDefaults()


def resolved(
    defaults: GenerationDefaults = SILENT, limits: GenerationLimits = LIMITS, **asked: Any
) -> GenerationOptions:
    return resolve(RequestedOptions(**asked), defaults, limits, lambda: 77)


def refused(limits: GenerationLimits = LIMITS, **asked: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        resolved(limits=limits, **asked)
    return caught.value


def test_what_nobody_says_comes_from_the_server() -> None:
    assert resolved() == GenerationOptions(max_new_tokens=256, temperature=0.0, seed=77)


def test_the_checkpoint_goes_before_the_server() -> None:
    defaults = GenerationDefaults(
        temperature=0.6, top_k=20, top_p=0.95, min_p=0.05, repetition_penalty=1.1, max_new_tokens=48
    )
    assert resolved(defaults) == GenerationOptions(48, 0.6, 20, 0.95, 0.05, 1.1, seed=77)


def test_the_request_goes_before_the_checkpoint() -> None:
    defaults = GenerationDefaults(
        temperature=0.6, top_k=20, top_p=0.95, min_p=0.05, repetition_penalty=1.1, max_new_tokens=48
    )
    asked = GenerationOptions(7, 0.0, 0, 1.0, 0.0, 1.0, -0.5, 0.5, 3, ("\n",), (9,), 0, ignore_eos=True)
    assert resolved(defaults, **dataclasses.asdict(asked)) == asked


def test_a_checkpoint_that_does_not_sample_is_greedy() -> None:
    assert resolved(GenerationDefaults(do_sample=False, temperature=0.6)).temperature == 0
    assert resolved(GenerationDefaults(do_sample=False), top_p=0.5).temperature == 0


def test_a_request_for_a_temperature_makes_it_sample() -> None:
    assert resolved(GenerationDefaults(do_sample=False), temperature=0.9).temperature == 0.9


def test_a_checkpoint_that_samples_without_a_temperature_means_1() -> None:
    limits = dataclasses.replace(LIMITS, temperature_default=0.8)
    assert resolved(GenerationDefaults(do_sample=True), limits).temperature == 1
    assert resolved(GenerationDefaults(), limits).temperature == 0.8


def test_stop_texts_of_the_checkpoint_hold_until_a_request_has_others() -> None:
    defaults = GenerationDefaults(stop_strings=("User:",))
    assert resolved(defaults).stop == ("User:",)
    assert resolved(defaults, stop=("\n",)).stop == ("\n",)


@pytest.mark.parametrize("stops", [("",), ("x" * 257,), ("x",) * 17])
def test_stop_texts_of_the_checkpoint_that_a_request_would_be_refused_for_are_passed_over(
    stops: tuple[str, ...],
) -> None:
    assert resolved(GenerationDefaults(stop_strings=stops)).stop == ()


def test_stop_texts_that_are_special_tokens_become_stop_tokens() -> None:
    options = resolved(stop=("<|end|>", "\n"), stop_token_ids=(9, 7))
    found = stop_at_special(options, {"<|end|>": 7, "<|other|>": 8}.get)
    assert (found.stop, found.stop_token_ids) == (("\n",), (9, 7))


def test_a_request_that_says_nothing_of_drafts_takes_the_servers_setting() -> None:
    limits = dataclasses.replace(LIMITS, speculated_tokens_default=7)
    assert resolved(SILENT, limits).speculated_tokens == 7
    assert resolved(SILENT, limits, speculated_tokens=0).speculated_tokens == 0
    assert resolved().speculated_tokens == 0


def test_a_checkpoints_default_beyond_the_limit_is_cut() -> None:
    assert resolved(GenerationDefaults(max_new_tokens=100_000)).max_new_tokens == 1024


def test_a_servers_default_beyond_its_limit_is_cut() -> None:
    limits = dataclasses.replace(LIMITS, max_new_tokens_default=2000)
    assert resolved(limits=limits).max_new_tokens == 1024


def test_a_checkpoints_default_that_makes_no_sense_is_passed_over() -> None:
    defaults = GenerationDefaults(temperature=math.nan, top_p=0.0, top_k=-1, min_p=3.0, repetition_penalty=0.0)
    assert resolved(defaults) == resolved()


def test_an_explicit_zero_is_not_unset() -> None:
    options = resolved(GenerationDefaults(temperature=0.6, top_k=20), temperature=0.0, top_k=0, seed=0, logprobs=0)
    assert (options.temperature, options.top_k, options.seed, options.logprobs) == (0, 0, 0, 0)


def test_the_seed_is_drawn_only_where_none_is_asked_for() -> None:
    def never() -> int:
        raise AssertionError

    assert resolve(RequestedOptions(seed=5), SILENT, LIMITS, never).seed == 5


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("max_new_tokens", [1, 1024], [0, -1, 1025]),
        ("temperature", [0.0, 10.0], [-0.001, 10.001]),
        ("top_k", [0, 1, 2**31 - 1], [-1]),
        ("top_p", [1e-9, 1.0], [0.0, -0.1, 1.001]),
        ("min_p", [0.0, 1.0], [-0.001, 1.001]),
        ("repetition_penalty", [1e-9, 10.0], [0.0, -1.0, 10.001]),
        ("presence_penalty", [-2.0, 2.0], [-2.001, 2.001]),
        ("frequency_penalty", [-2.0, 2.0], [-2.001, 2.001]),
        ("seed", [0, 2**64 - 1], [-1, 2**64]),
        ("logprobs", [0, 20], [-1, 21]),
        ("speculated_tokens", [0, 15], [-1, 16]),
    ],
)
def test_ranges(name: str, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        assert getattr(resolved(**{name: value}), name) == value
    for value in outside:
        error = refused(**{name: value})
        assert error.reason == Reason.INVALID_FIELD
        assert [violation.field for violation in error.violations] == [f"turn.generation.{name}"]
        assert name in error.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"],
)
def test_numbers_that_are_not_finite_are_refused(name: str, value: Any) -> None:
    assert refused(**{name: value}).violations[0].field == f"turn.generation.{name}"


def test_more_tokens_than_allowed_are_refused_with_both_numbers() -> None:
    assert "max_new_tokens is 2000; this server allows at most 1024" in refused(max_new_tokens=2000).message


def test_a_message_says_what_would_be_right() -> None:
    assert refused(top_p=1.5).message == "top_p is 1.5; it has to be above 0 and at most 1"
    assert refused(max_new_tokens=0).message == "max_new_tokens is 0; it has to be at least 1"


def test_stop_texts_are_bounded() -> None:
    assert resolved(stop=("x" * 256,) * 16).stop == ("x" * 256,) * 16
    error = refused(stop=("fine", "", "x" * 257))
    assert [violation.field for violation in error.violations] == [
        "turn.generation.stop[1]",
        "turn.generation.stop[2]",
    ]
    assert [violation.field for violation in refused(stop=("x",) * 17).violations] == ["turn.generation.stop"]


def test_stop_texts_count_characters_not_bytes() -> None:
    assert resolved(stop=("🙂" * 256,)).stop


def test_stop_texts_need_an_engine_that_has_text() -> None:
    limits = dataclasses.replace(LIMITS, decodes_text=False)
    assert refused(limits, stop=("x",)).violations[0].field == "turn.generation.stop"


def test_stop_tokens_lie_in_the_vocabulary() -> None:
    assert resolved(stop_token_ids=(0, 999)).stop_token_ids == (0, 999)
    error = refused(stop_token_ids=(5, 1000, -1))
    assert error.reason == Reason.TOKEN_OUT_OF_VOCABULARY
    fields = [violation.field for violation in error.violations]
    assert fields == ["turn.generation.stop_token_ids[1]", "turn.generation.stop_token_ids[2]"]


def test_stop_tokens_are_bounded() -> None:
    assert refused(stop_token_ids=(1,) * 65).violations[0].field == "turn.generation.stop_token_ids"


def test_everything_wrong_is_said_at_once() -> None:
    error = refused(temperature=-1.0, top_p=2.0, stop=("",), stop_token_ids=(5000,))
    assert error.reason == Reason.INVALID_FIELD
    assert {violation.field.removeprefix("turn.generation.") for violation in error.violations} == {
        "temperature",
        "top_p",
        "stop[0]",
        "stop_token_ids[0]",
    }


@given(
    st.builds(
        RequestedOptions,
        max_new_tokens=st.none() | st.integers(-5, 3000),
        temperature=st.none() | st.floats(),
        top_k=st.none() | st.integers(-5, 3000),
        top_p=st.none() | st.floats(),
        min_p=st.none() | st.floats(),
        stop=st.lists(st.text(max_size=3), max_size=18).map(tuple),
        stop_token_ids=st.lists(st.integers(-5, 2000), max_size=3).map(tuple),
        logprobs=st.none() | st.integers(-3, 30),
        speculated_tokens=st.none() | st.integers(-3, 30),
    )
)
def test_what_is_not_refused_is_used_as_it_was_asked(requested: RequestedOptions) -> None:
    wrong = False
    with suppress(InvalidArgument):
        options = resolve(requested, SILENT, LIMITS, lambda: 0)
        for name, value in dataclasses.asdict(requested).items():
            wrong |= value is not None and value != getattr(options, name)
        wrong |= not 1 <= options.max_new_tokens <= LIMITS.max_new_tokens_limit
    assert not wrong


@pytest.mark.parametrize(
    ("limits", "asked", "field", "why"),
    [
        (dataclasses.replace(LIMITS, takes_forms=False), {}, "response_format", "engines for TensorRT-LLM cannot hold"),
        (dataclasses.replace(LIMITS, decodes_text=False), {}, "response_format", "this engine has no tokenizer"),
        (LIMITS, {"ignore_eos": True}, "ignore_eos", "a reply ends where its form does"),
    ],
)
def test_a_form_is_refused_where_none_can_be(
    limits: GenerationLimits, asked: dict[str, Any], field: str, why: str
) -> None:
    error = refused(limits, response_format=ResponseFormat(regex="a"), **asked)
    assert [violation.field for violation in error.violations] == [f"turn.generation.{field}"]
    assert why in error.message
