from __future__ import annotations

import math
from typing import Any

import pytest

from builder_service.checkpoint.generation_config import end_tokens, generation_defaults, not_honoured
from common.errors import InvalidArgument, Reason


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({}, {}, ()),
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": [7, 1, 7]}, (1, 7)),
        ({"eos_token_id": [2, 0]}, {"eos_token_id": None}, (0, 2)),
    ],
)
def test_end_tokens_are_those_of_generation_else_of_the_config(
    config: dict[str, Any], generation: dict[str, Any], ends: tuple[int, ...]
) -> None:
    assert end_tokens(config, generation, 10) == ends


@pytest.mark.parametrize("value", [10, -1, "2", "abc", 1.5, True, [1, 10]])
def test_an_end_token_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="generation_config.json has eos_token_id") as caught:
        end_tokens({}, {"eos_token_id": value}, 10)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID


def test_defaults_are_taken_as_they_are_and_the_rest_is_left() -> None:
    found = generation_defaults({"do_sample": True, "temperature": 0.7, "transformers_version": "5", "max_length": 9})
    assert (found.do_sample, found.temperature, found.top_k) == (True, 0.7, None)


def test_a_default_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"top_k = 'many'"):
        generation_defaults({"top_k": "many"})


@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("top_p", 7), ("top_k", -3)])
def test_a_default_out_of_range_stays_for_the_runtime_to_pass_over(name: str, value: float) -> None:
    assert getattr(generation_defaults({name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [("temperature", math.inf), ("top_p", math.nan), ("top_k", 10**400)])
def test_a_default_that_the_manifest_cannot_hold_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=f"generation_config.json has {name} = "):
        generation_defaults({name: value})


@pytest.mark.parametrize("stops", ["User:", ["User:"]])
def test_stop_texts_are_taken(stops: object) -> None:
    assert generation_defaults({"stop_strings": stops}).stop_strings == ("User:",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [5]),
        ("bad_words_ids", [[5]]),
        ("num_beams", 4),
        ("typical_p", 0.9),
        ("min_new_tokens", 5),
        ("forced_eos_token_id", 2),
        ("guidance_scale", 1.5),
        ("a_field_of_tomorrow", True),
    ],
)
def test_what_would_change_a_reply_and_is_not_honoured_is_a_warning(field: str, value: object) -> None:
    generation = {"temperature": 0.7, "eos_token_id": 2, "transformers_version": "5.0", field: value}
    assert not_honoured(generation) == (f"generation_config.json has {field} = {value!r}, which is not honoured here",)


def test_what_changes_nothing_is_no_warning() -> None:
    neutral = {"num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": None, "top_h": None}
    read = {"do_sample": True, "top_p": 0.9, "stop_strings": ["x"], "max_length": 4096, "_from_model_config": True}
    assert not_honoured(neutral | read) == ()
