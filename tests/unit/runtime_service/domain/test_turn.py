"""Requests of turns: the same request is recognized, another is not, and a kept one comes back as it was."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.turn import Message, TurnInput, TurnRequest

WORDS = st.text(max_size=20)
INPUTS = st.one_of(
    st.builds(TurnInput, text=WORDS),
    st.builds(TurnInput, messages=st.lists(st.builds(Message, WORDS, WORDS), max_size=3).map(tuple)),
    st.builds(TurnInput, token_ids=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=5).map(tuple)),
)
OPTIONS = st.builds(
    RequestedOptions,
    max_new_tokens=st.none() | st.integers(-5, 5),
    # -0.0 equals 0.0 and is written otherwise: it counts as another request, which harms nobody.
    temperature=st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    seed=st.none() | st.integers(0, (1 << 64) - 1),
    stop=st.lists(WORDS, max_size=2).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    ignore_eos=st.none() | st.booleans(),
    speculated_tokens=st.none() | st.integers(-5, 20),
    response_format=st.none() | st.builds(ResponseFormat, regex=WORDS) | st.just(ResponseFormat(choice=("a",))),
)
REQUESTS = st.builds(TurnRequest, st.just("t"), INPUTS, OPTIONS, st.booleans(), st.booleans())


@given(REQUESTS)
def test_a_request_comes_back_from_its_body(request: TurnRequest) -> None:
    assert TurnRequest.from_body("t", request.body()) == request
    assert TurnRequest.from_body("other", request.body()) == replace(request, turn_id="other")


@given(REQUESTS, REQUESTS)
def test_the_digest_is_that_of_everything_but_the_id(first: TurnRequest, second: TurnRequest) -> None:
    assert (first.digest() == second.digest()) == (first == second)
    assert replace(first, turn_id="other").digest() == first.digest()


def test_unset_is_not_the_same_as_the_default() -> None:
    request = TurnRequest("t", TurnInput(text=""))
    others = [
        replace(request, input=TurnInput()),
        replace(request, input=TurnInput(token_ids=())),
        replace(request, generation=RequestedOptions(temperature=0.0)),
        replace(request, no_reply=True),
    ]
    assert len({each.digest() for each in (request, *others)}) == 5


def test_a_request_without_a_form_has_the_digest_that_it_had_before_there_were_forms() -> None:
    assert "response_format" not in TurnRequest("t", TurnInput(text="hello")).body()
