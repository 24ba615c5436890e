"""Replies in a given form, over a real socket: they match, say so, and are told again; what cannot be is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, info, text_of, violations

PROPERTIES = {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["a", "b"], "additionalProperties": False}
JSON = pb.ResponseFormat(json_schema=json.dumps(SCHEMA))
STOPS = [*range(5, 69)]


def formed(response_format: pb.ResponseFormat, **options: Any) -> dict[str, Any]:
    return {"response_format": response_format, "max_new_tokens": 500, "temperature": 1.0, "seed": 4, **options}


@pytest.mark.parametrize("drafts", [0, 4])
async def test_a_reply_is_json_by_its_schema_and_the_same_after_a_restart(bench: Bench, drafts: int) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=formed(JSON, speculated_tokens=drafts, stop_token_ids=STOPS))
    events = await stream.until("finished")
    reply, finished = json.loads(text_of(events)), events[-1].finished
    assert isinstance(reply["a"], int)
    assert reply["b"] in {"x", "yy"}
    assert finished.reason == pb.FINISH_REASON_STOP
    assert finished.format_matched
    assert events[0].started.generation.response_format == JSON
    await bench.restart()
    again = await bench.resumed(stream.session)
    await again.turn("t", generation=formed(JSON, speculated_tokens=drafts, stop_token_ids=STOPS))
    assert (await again.until("finished"))[-1].finished == finished


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        (pb.ResponseFormat(regex="[ab]{2,4}x"), "[ab]{2,4}x"),
        (pb.ResponseFormat(choice=pb.Choice(texts=["yes", "no"])), "yes|no"),
        (pb.ResponseFormat(grammar='start: "<" /[a-z]/ ">"'), "<[a-z]>"),
    ],
)
async def test_other_forms_hold(bench: Bench, asked: pb.ResponseFormat, pattern: str) -> None:
    stream = await bench.opened()
    await stream.turn(generation=formed(asked))
    events = await stream.until("finished")
    assert re.fullmatch(pattern, text_of(events))
    assert events[-1].finished.format_matched


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_new_tokens": 2}, pb.FINISH_REASON_LENGTH), ({"stop": ["a"]}, pb.FINISH_REASON_STOP)],
)
async def test_a_reply_that_was_cut_says_so(bench: Bench, options: dict[str, Any], reason: int) -> None:
    stream = await bench.opened()
    await stream.turn(generation=formed(pb.ResponseFormat(regex="ba{100}"), **options))
    finished = await stream.finished()
    assert (finished.reason, finished.format_matched) == (reason, False)
    assert finished.HasField("format_matched")


async def test_without_a_form_nothing_is_said_of_one(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("free")
    assert not (await stream.finished()).HasField("format_matched")
    await stream.turn("fed", no_reply=True, generation=formed(JSON))
    assert not (await stream.finished()).HasField("format_matched")


@pytest.mark.parametrize(
    ("options", "field", "why"),
    [
        (formed(pb.ResponseFormat()), "", "one of json_schema, regex, choice or grammar is needed"),
        (formed(pb.ResponseFormat(json_schema='{"not": {}}')), ".json_schema", 'Unimplemented keys: ["not"]'),
        (formed(pb.ResponseFormat(regex="a" * 10_000)), ".regex", "10000 bytes; at most 8192"),
        (formed(pb.ResponseFormat(choice=pb.Choice())), ".choice", "is empty"),
        (formed(pb.ResponseFormat(choice=pb.Choice(texts=["a", ""]))), ".choice.texts[1]", "is empty"),
        (formed(pb.ResponseFormat(choice=pb.Choice(texts=["a"] * 1001))), ".choice", "1001 texts; at most 1000"),
    ],
)
async def test_what_cannot_be_is_rejected_and_the_stream_goes_on(
    bench: Bench, options: dict[str, Any], field: str, why: str
) -> None:
    stream = await bench.opened()
    await stream.turn("bad", generation=options)
    rejected = await stream.rejected()
    assert (rejected.turn_id, info(rejected.error).reason) == ("bad", "INVALID_FIELD")
    assert violations(rejected.error) == [f"turn.generation.response_format{field}"]
    assert why in rejected.error.message
    await stream.turn("good", generation=formed(JSON))
    assert (await stream.finished()).format_matched
