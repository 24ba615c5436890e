"""Replies in a given form of models that think: the thought is free, and what is behind it has the form."""

from __future__ import annotations

import asyncio
import json
import random
import re
from functools import cache

import pytest

from common.errors import InvalidArgument
from common.spec.chat.tool_template import Marker, Reasoning
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.sampling import Sampled
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.turn import FinishReason
from runtime_service.forms.engine_forms import EngineForms
from runtime_service.forms.form import form_of
from runtime_service.forms.matcher import Matcher
from tests.samples.vocabularies import ASSISTANT, END, END_THINK, THINK, byte_level
from tests.samples.whole_manifests import TEMPLATE, make_manifest
from tests.unit.runtime_service.forms.replies import GEOMETRY, PADDED, fitting

IDS = {token["content"]: token["id"] for token in json.loads(byte_level())["added_tokens"]}
OPENS, CLOSES = IDS[THINK], IDS[END_THINK]
TOKENS = Reasoning(opens=Marker(text=THINK, token_id=OPENS), closes=Marker(text=END_THINK, token_id=CLOSES))
SPELLED = Reasoning(opens=Marker(text=THINK), closes=Marker(text=END_THINK))
REGEX = ResponseFormat(regex=r"[ab]{2,4}x")
OPTIONS = GenerationOptions(max_new_tokens=400, response_format=REGEX)


@cache
def text_of(reasoning: Reasoning | None, *before: int) -> Text:
    template = TEMPLATE.model_copy(update={"reasoning": reasoning, "assistant_before": (ASSISTANT, *before)})
    return Text(byte_level(), make_manifest(GEOMETRY, vocabulary=PADDED, template=template, end_token_ids=(END,)))


def matcher_of(text: Text, asked: ResponseFormat = REGEX, prompt: tuple[int, ...] | None = None) -> Matcher:
    manifest = make_manifest(GEOMETRY, vocabulary=PADDED, end_token_ids=(END,))
    forms = EngineForms(text.vocabulary, manifest, frozenset({OPENS, CLOSES}))
    return asyncio.run(forms.matcher(form_of(asked, text.parts_of(OPTIONS, prompt))))


def replied(text: Text, seed: int) -> tuple[str, str, FinishReason]:
    """What is said and thought by tokens that fit, by chance; marks are taken often."""
    own, reply, chance = matcher_of(text), Reply(text, OPTIONS, (END,)), random.Random(seed)
    said, thought = "", ""
    while reply.finished is None:
        some = fitting(own)
        marks = [token for token in some if token in {OPENS, CLOSES}]
        token = chance.choice(marks if marks and chance.random() < 0.2 else some)
        own.accept(token)
        assert own.error is None
        delta = reply.push(Sampled(token), is_last=own.is_over)
        said, thought = said + delta.text, thought + delta.reasoning
    return said, thought, reply.finished.reason


@pytest.mark.parametrize("text", [text_of(TOKENS, OPENS), text_of(TOKENS)], ids=["opened", "may"])
def test_a_thought_is_free_and_the_rest_has_the_form(text: Text) -> None:
    thoughts = set()
    for seed in range(8):
        said, thought, reason = replied(text, seed)
        assert reason is FinishReason.STOP
        assert re.fullmatch(REGEX.regex or "", said)
        thoughts.add(thought)
    assert len(thoughts) > 1


def test_a_thought_that_the_prompt_opens_has_to_come_and_to_end() -> None:
    own = matcher_of(text_of(TOKENS, OPENS))
    assert CLOSES in fitting(own)
    assert {END, OPENS}.isdisjoint(fitting(own))


@pytest.mark.parametrize(
    "text",
    [text_of(TOKENS, OPENS, CLOSES), text_of(SPELLED), text_of(None)],
    ids=["closed", "spelled", "none"],
)
def test_where_nothing_is_thought_the_form_begins_at_once(text: Text) -> None:
    own, plain = matcher_of(text), matcher_of(text_of(None))
    assert fitting(own) == fitting(plain)
    assert text.parts_of(OPTIONS).reasoning is None


def test_marks_that_are_spelled_out_end_a_thought_that_the_prompt_opens() -> None:
    text = text_of(SPELLED, *ids_of("<think>\n"))
    own, reply = matcher_of(text), Reply(text, OPTIONS, (END,))
    for token in ids_of("hm <i>, x\n</think>\n\nabx"):
        own.accept(token)
        delta = reply.push(Sampled(token), is_last=own.is_over)
    assert own.error is None
    assert (own.is_over, reply.finished is not None) == (True, True)
    assert delta.text.endswith("x")


def test_a_prompt_of_tokens_says_itself_whether_a_thought_is_open() -> None:
    text = text_of(TOKENS, OPENS)
    assert text.parts_of(OPTIONS, (7, ASSISTANT, OPENS)).thinks
    assert not text.parts_of(OPTIONS, (7, ASSISTANT)).thinks
    assert text.parts_of(OPTIONS, (ASSISTANT, OPENS, CLOSES)).reasoning is None


def test_a_form_that_nothing_fits_is_refused_behind_a_thought_too() -> None:
    impossible = ResponseFormat(json_schema=json.dumps({"type": "integer", "minimum": 5, "maximum": 3}))
    with pytest.raises(InvalidArgument, match="response_format.json_schema is refused"):
        matcher_of(text_of(TOKENS, OPENS), impossible)


def ids_of(said: str) -> tuple[int, ...]:
    """Of tokens that are characters."""
    bytes_of = text_of(None).token_bytes
    single = {bytes_of(token): token for token in range(600) if len(bytes_of(token)) == 1}
    return tuple(single[bytes([byte])] for byte in said.encode())
