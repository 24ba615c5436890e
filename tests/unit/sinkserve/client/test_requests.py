"""What a caller gives by keywords is what goes over the wire."""

from __future__ import annotations

import pytest

from sinkserve.client.requests import GenerationOptions, ResponseFormat, generation
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"json_schema": {"type": "object"}}, pb.ResponseFormat(json_schema='{"type": "object"}')),
        ({"json_schema": "true"}, pb.ResponseFormat(json_schema="true")),
        ({"regex": "a+"}, pb.ResponseFormat(regex="a+")),
        ({"choice": ["a", "b"]}, pb.ResponseFormat(choice=pb.Choice(texts=["a", "b"]))),
        ({"grammar": "start: /a/"}, pb.ResponseFormat(grammar="start: /a/")),
    ],
)
def test_a_form_is_sent(given: ResponseFormat, sent: pb.ResponseFormat) -> None:
    options = GenerationOptions(seed=3, stop=["x"], response_format=given)
    assert generation(options) == pb.GenerationOptions(seed=3, stop=["x"], response_format=sent)


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choice": ["a"]}])
def test_a_form_is_exactly_one(given: ResponseFormat) -> None:
    with pytest.raises(TypeError, match="exactly one of json_schema, regex, choice and grammar"):
        generation(GenerationOptions(response_format=given))
