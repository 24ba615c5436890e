"""What of a schema is looked at before llguidance has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import InvalidArgument
from runtime_service.forms.json_schema import read_schema


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is no JSON: "),
        ('{"maximum": NaN}', "is no JSON: NaN is no number"),
        ('{"maximum": 1e999}', "1e999 is too large a number"),
        ('{"maximum": 1' + "0" * 5000 + "}", "1000000000000000000000000000000000000000 is too large a number"),
        (r'{"const": "\ud800"}', "has half a character"),
        ("[]", r"has to be an object, as a JSON schema is; it is \[\]"),
        (nested(200), "is deeper than 128 levels"),
        (nested(20_000), "is deeper than 128 levels"),
        (json.dumps({"properties": {f"p{i}": {} for i in range(1001)}}), "more than 1000 properties"),
        ('{"multipleOf": 123456789}', "123456789 as their least common multiple; at most 20000"),
        ('{"allOf": [{"multipleOf": 9973}, {"multipleOf": 0.9967}]}', "99400891 as their least common multiple"),
    ],
)
def test_what_is_too_large_or_no_schema_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"turn.generation.response_format.json_schema .*{why}"):
        read_schema(text)


@pytest.mark.parametrize(
    "schema", [{}, {"multipleOf": 0.01}, {"multipleOf": 3e9}, {"properties": {"multipleOf": {}}}, {"multipleOf": True}]
)
def test_others_are_as_they_were(schema: dict[str, Any]) -> None:
    assert read_schema(json.dumps(schema)) == schema


def test_true_is_any_json() -> None:
    assert read_schema("true") == {}


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert repr(read_schema('{"maxLength": 2.0, "maximum": 1e300, "minimum": 0.5}')) == (
        "{'maxLength': 2, 'maximum': 1e+300, 'minimum': 0.5}"
    )
