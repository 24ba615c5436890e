from __future__ import annotations

import pytest

from sinkserve.cli.chat.sampling import changed, describe
from sinkserve.client import GenerationOptions
from sinkserve.runtime.v1.conversation_service_pb2 import GenerationOptions as Effective

GREEDY = Effective(temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=1)
SAMPLED = Effective(temperature=0.6, top_k=20, top_p=0.95, min_p=0, repetition_penalty=1.1)


@pytest.mark.parametrize(
    ("defaults", "asked", "said"),
    [
        (GREEDY, {}, "greedy"),
        (GREEDY, {"temperature": 0.7}, "temperature 0.7"),
        (GREEDY, {"top_p": 0.5}, "greedy"),
        (SAMPLED, {}, "temperature 0.6 · top k 20 · top p 0.95 · repetition penalty 1.1"),
        (SAMPLED, {"temperature": 0.0}, "greedy · repetition penalty 1.1"),
        (SAMPLED, {"top_k": 0, "min_p": 0.1}, "temperature 0.6 · top p 0.95 · min p 0.1 · repetition penalty 1.1"),
    ],
)
def test_sampling_is_said_as_it_is_in_effect(defaults: Effective, asked: GenerationOptions, said: str) -> None:
    assert describe(defaults, asked) == said


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("temperature 0.7", {"seed": 5, "temperature": 0.7}),
        ("top-k 40", {"seed": 5, "top_k": 40}),
        ("seed", {}),
        ("stop User: ", {"seed": 5, "stop": ["User:"]}),
    ],
)
def test_an_option_is_set_and_taken_back(argument: str, options: GenerationOptions) -> None:
    assert changed({"seed": 5}, argument) == options


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("warmth 1", "one of max_new_tokens, temperature"),
        ("top_k 1.5", "whole number, and not 1.5"),
        ("top_p x", "number, and not x"),
    ],
)
def test_what_cannot_be_set_says_what_can(argument: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        changed({}, argument)
