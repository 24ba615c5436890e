"""Options of a turn as TensorRT-LLM takes them."""

from __future__ import annotations

from runtime_service.domain.options import GenerationOptions
from runtime_service.recompute.tensorrt_llm_generator import sampling_keywords
from tests.fakes import tensorrt_llm as fake_tensorrt_llm

GREEDY = GenerationOptions(max_new_tokens=8, temperature=0.0)


def test_greedy_options_ask_for_the_likeliest_token_and_never_for_an_end() -> None:
    options = GenerationOptions(8, temperature=0.0, top_k=5, top_p=0.5, seed=3, stop=("x",), stop_token_ids=(4,))
    assert sampling_keywords(options, 7) == {
        "max_tokens": 7,
        "end_id": -1,
        "ignore_eos": True,
        "detokenize": False,
        "add_special_tokens": False,
        "logprobs": None,
        "top_k": 1,
    }


def test_what_chooses_a_token_is_handed_on() -> None:
    options = GenerationOptions(
        8, 0.7, 5, 0.5, 0.1, repetition_penalty=1.2, presence_penalty=-1.0, frequency_penalty=0.5, seed=3, logprobs=2
    )
    given = fake_tensorrt_llm.SamplingParams(**sampling_keywords(options, 7))
    assert (given.temperature, given.top_k, given.top_p, given.min_p, given.seed) == (0.7, 5, 0.5, 0.1, 3)
    assert (given.repetition_penalty, given.presence_penalty, given.frequency_penalty) == (1.2, -1.0, 0.5)
    assert given.logprobs == 2


def test_sampling_without_bounds_is_not_greedy() -> None:
    """With neither top_k nor top_p said, the package takes the likeliest token."""
    given = sampling_keywords(GenerationOptions(8, temperature=1.0), 7)
    assert (given["top_k"], given["top_p"]) == (0, 1.0)
