"""Whatever fits the form of calls is read as whole calls of the tools that were asked for."""

from __future__ import annotations

import asyncio
import json
import random
from functools import cache

import jsonschema
import pytest

from builder_service.chat.tools.derive import resolved
from builder_service.chat.tools.formats import FORMATS, HERMES
from common.errors import InvalidArgument
from common.spec.chat.tool_template import CallForm, Marker, Reasoning
from common.text.content import ContentEncoder
from common.text.tools.values import Tool, ToolCall
from runtime_service.decoding.parts.reply_parts import PartForms, ReplyParts
from runtime_service.decoding.text import Text
from runtime_service.domain.tools import ToolChoice, ToolMode
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.tool_form import tool_form
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import make_manifest
from tests.unit.runtime_service.forms.replies import GEOMETRY, fitting

ENDS = (1,)
MARKERS = ("<tool_call>", "</tool_call>")
SCHEMA = {
    "type": "object",
    "properties": {"town": {"enum": ["Graz", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town"],
    "additionalProperties": False,
}
TOOLS = (Tool("weather", "How it is.", SCHEMA), Tool("now"))
REQUIRED, NOW = ToolChoice(ToolMode.REQUIRED), ToolChoice(ToolMode.FUNCTION, "now")
THINKING = Reasoning(opens=Marker(text="<think>"), closes=Marker(text="</think>"))


@cache
def text() -> Text:
    return Text(byte_level(added=MARKERS), make_manifest(GEOMETRY, vocabulary=1024, end_token_ids=ENDS))


@cache
def forms() -> EngineForms:
    manifest = make_manifest(GEOMETRY, vocabulary=1024, end_token_ids=ENDS)
    return EngineForms(text().vocabulary, manifest, frozenset(marks()[marker] for marker in MARKERS))


def marks() -> dict[str, int]:
    return {token["content"]: token["id"] for token in json.loads(byte_level(added=MARKERS))["added_tokens"]}


def kinds() -> dict[str, CallForm]:
    return {**FORMATS, "hermes, markers are tokens": resolved(HERMES, marks())}


def replied(parts: PartForms, choice: ToolChoice | None, seed: int, most: int = 400) -> tuple[list[ToolCall], str]:
    """Calls and text of a reply of tokens that fit, by chance; ends are taken wherever they fit."""
    form = tool_form(parts, TOOLS, choice)
    assert form
    forms()._tokenizer = None
    own, chance = asyncio.run(forms().matcher(form)), random.Random(seed)
    read, said = ReplyParts(parts, text().detokenizer(), str), ""
    for _ in range(most):
        some = fitting(own)
        token = 1 if 1 in some else chance.choice(some)
        own.accept(token)
        assert own.error is None
        if token not in ENDS:
            said += read.push(token).text
        if token in ENDS or own.is_over:
            break
    return read.calls, said + read.flush().text


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("choice", [REQUIRED, NOW])
def test_a_reply_that_has_to_call_does(kind: str, choice: ToolChoice) -> None:
    parts = PartForms(kinds()[kind], tuple(tool.name for tool in TOOLS))
    for seed in range(3):
        calls, said = replied(parts, choice, seed)
        assert said.strip() == ""
        assert calls
        for call in calls:
            assert not call.incomplete
            assert call.name == "now" or choice is REQUIRED
            jsonschema.validate(json.loads(call.arguments), SCHEMA if call.name == "weather" else {"maxProperties": 0})


def test_a_thought_comes_first_where_one_is_open() -> None:
    parts = PartForms(HERMES, ("now",), THINKING, thinks=True)
    form = tool_form(parts, TOOLS, NOW)
    assert form
    forms()._tokenizer = None
    own = asyncio.run(forms().matcher(form))
    reply = 'hm</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for token in ContentEncoder(json.loads(byte_level()), frozenset()).encode(reply):
        own.accept(token)
    assert (own.error, own.is_over) == (None, True)


def test_no_marker_fits_in_a_string_of_arguments_where_it_would_end_the_call() -> None:
    tools = (Tool("say", "", {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}),)
    form = tool_form(PartForms(resolved(HERMES, marks()), ("say",)), tools, REQUIRED)
    assert form
    forms()._tokenizer = None
    own, opens = asyncio.run(forms().matcher(form)), marks()["<tool_call>"]
    begun = ContentEncoder(json.loads(byte_level()), frozenset()).encode('\n{"name": "say", "arguments": {"text": "a')
    for token in (opens, *begun):
        own.accept(token)
    assert own.error is None
    assert {marks()[marker] for marker in MARKERS}.isdisjoint(fitting(own))


def test_where_the_model_decides_nothing_is_held_without_a_marker() -> None:
    assert tool_form(PartForms(FORMATS["llama"], ("now",)), TOOLS, None) is None
    assert tool_form(PartForms(), TOOLS, None) is None
    calls, said = replied(PartForms(kinds()["hermes"], ("now",)), None, 0)
    assert (calls, said) == ([], "")


def test_a_schema_that_would_take_long_is_refused_by_name() -> None:
    tools = (Tool("now", "", {"type": "object", "properties": {"a": {"multipleOf": 99991}}}),)
    with pytest.raises(InvalidArgument, match=r"turn\.generation\.tool_choice has values of multipleOf"):
        tool_form(PartForms(HERMES, ("now",)), tools, REQUIRED)
