"""What a reply says, thinks and calls: the same however it is cut into tokens, and nothing of it is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder_service.chat.tools.formats import FORMATS, HERMES, LLAMA
from common.spec.chat.tool_template import CallForm, Marker, Reasoning
from common.text.tools.values import ToolCall
from common.text.tools.wrapping import call_form
from runtime_service.decoding.detokenizer import Detokenizer
from runtime_service.decoding.parts.pieces import CallPiece, Pieces, pieces_of
from runtime_service.decoding.parts.reply_parts import PartForms, ReplyParts

OPENS, CLOSES, THINKS, THOUGHT = range(1000, 1004)
MARKERS = {OPENS: "<tool_call>", CLOSES: "</tool_call>", THINKS: "<think>", THOUGHT: "</think>"}
TOKENS = HERMES.model_copy(
    update={
        "opens": Marker(text="<tool_call>", token_id=OPENS),
        "closes": Marker(text="</tool_call>", token_id=CLOSES),
    }
)
THINKING = Reasoning(opens=Marker(text="<think>"), closes=Marker(text="</think>"))
THINKING_TOKENS = Reasoning(
    opens=Marker(text="<think>", token_id=THINKS), closes=Marker(text="</think>", token_id=THOUGHT)
)
NAMES = ("weather", "now")
FORMS: dict[str, CallForm] = {**FORMATS, "hermes, markers are tokens": TOKENS}
WORDS = st.text('abc <>{}[]"\\/\n:,é', max_size=12)
ARGUMENTS = st.dictionaries(WORDS, st.one_of(WORDS, st.integers(), st.lists(WORDS, max_size=2), st.none()), max_size=3)


class Characters:
    """A detokenizer of tokens that are characters and markers."""

    def push(self, token_id: int) -> str:
        return MARKERS.get(token_id) or chr(token_id)


def read(tokens: list[int], forms: PartForms) -> tuple[list[Pieces], ReplyParts]:
    parts = ReplyParts(forms, cast("Detokenizer", Characters()), str)
    return [*(parts.push(token) for token in tokens), parts.flush()], parts


def joined(pieces: list[Pieces]) -> Pieces:
    return sum(pieces, Pieces())


def spelled(text: str) -> list[int]:
    return [ord(character) for character in text]


def written(form: CallForm, calls: list[ToolCall]) -> list[int]:
    return [
        token
        for part in call_form(form, calls)
        for token in (part.tokens or spelled(part.text))
    ]  # fmt: skip


def parts_of(said: str, forms: PartForms) -> tuple[Pieces, list[ToolCall]]:
    pieces, parts = read(spelled(said), forms)
    return joined(pieces), parts.calls


@pytest.mark.parametrize("name", FORMS)
@given(given_arguments=st.lists(ARGUMENTS, min_size=1, max_size=3), names=st.lists(st.sampled_from(NAMES), min_size=3))
def test_calls_are_read_as_they_are_written(
    name: str, given_arguments: list[dict[str, object]], names: list[str]
) -> None:
    form = FORMS[name]
    if not form.several:
        given_arguments = given_arguments[:1]
    calls = [
        ToolCall(str(index), names[index], json.dumps(arguments, ensure_ascii=False))
        for index, arguments in enumerate(given_arguments)
    ]
    pieces, parts = read(written(form, calls), PartForms(form, NAMES))
    assert parts.calls == calls
    assert joined(pieces) == Pieces(calls=pieces_of(calls))


@pytest.mark.parametrize("name", FORMS)
@example(said=[" {"])
@given(
    said=st.lists(
        st.one_of(WORDS, st.sampled_from(["<tool_call>", '{"name": "now", ', "</tool_call>", "[TOOL_CALLS]"]))
    )
)
def test_pieces_are_the_whole_whatever_is_said(name: str, said: list[str]) -> None:
    """What was told of calls in pieces is what they are in the end, and text without calls is all there."""
    text = "".join(said)
    pieces, parts = read(spelled(text), PartForms(FORMS[name], NAMES))
    assert joined(pieces).calls == pieces_of(parts.calls)
    if not parts.calls:
        assert joined(pieces).text == text


@pytest.mark.parametrize("name", FORMS)
@given(text=st.text("abc \n", min_size=1), thought=WORDS.filter(lambda text: "</think>" not in text))
def test_what_is_thought_is_not_said(name: str, text: str, thought: str) -> None:
    opening = spelled("<think>")
    for reasoning, opens, rest in (
        (THINKING, opening, spelled(f"{thought}</think>{text}")),
        (THINKING_TOKENS, [THINKS], [*spelled(thought), THOUGHT, *spelled(text)]),
    ):
        forms = PartForms(FORMS[name], NAMES, reasoning)
        pieces, parts = read([*opens, *rest], forms)
        assert joined(pieces) == Pieces(text.lstrip(), thought.strip())
        pieces, parts = read(rest, replace(forms, thinks=True))
        assert joined(pieces) == Pieces(text.lstrip(), thought.strip())
    assert parts.reasoning_tokens == len(thought) + 1


@given(thought=WORDS.filter(lambda text: "</think>" not in text), said=WORDS)
def test_with_a_form_it_thinks_at_its_beginning_alone(thought: str, said: str) -> None:
    text = f"x{said}<think>y</think>"
    for reasoning, mark in ((THINKING, spelled("</think>")), (THINKING_TOKENS, [THOUGHT])):
        forms = PartForms(reasoning=reasoning, thinks=True, once=True)
        pieces, _ = read([*spelled(thought), *mark, *spelled(f"\n\n{text}")], forms)
        assert joined(pieces) == Pieces(text, thought.strip())
    may = PartForms(reasoning=THINKING_TOKENS, once=True)
    pieces, parts = read([THINKS, *spelled(thought), THOUGHT, *spelled(text)], may)
    assert joined(pieces) == Pieces(text, thought.strip())
    assert parts.reasoning_tokens == len(thought) + 2
    pieces, parts = read([*spelled(text), THINKS, *spelled(said), THOUGHT], may)
    assert (joined(pieces), parts.reasoning_tokens) == (Pieces(f"{text}<think>{said}</think>"), 0)


def test_a_spelled_marker_stays_text_where_the_marker_is_a_token() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    said, calls = parts_of(call, PartForms(TOKENS, NAMES, THINKING_TOKENS))
    assert (said.text, calls) == (call, [])


@pytest.mark.parametrize(
    ("said", "text", "calls"),
    [
        ('<tool_call>\n{"name": "now", "arguments": {"a": "b', "", [ToolCall("0", "now", '{"a": "b', incomplete=True)]),
        ('<tool_call>\n{"arguments": {"a": 1}, "name": "now"}', "", [ToolCall("0", "now", '{"a": 1}')]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [ToolCall("0", "now", "{}")]),
        ('<tool_call>{"name": "now", "arguments": {a: 1}}', "", [ToolCall("0", "now", "{a: 1}", incomplete=True)]),
        ('<tool_call>\n{"nam', '<tool_call>\n{"nam', []),
        ("<tool_call>now()</tool_call> ok", "<tool_call>now()</tool_call> ok", []),
        ('<tool_call>{"tool": "now"}</tool_call>', '<tool_call>{"tool": "now"}</tool_call>', []),
        ("a <tool_cal", "a <tool_cal", []),
        (r'<tool_call>{"name": "\ud800"}', r'<tool_call>{"name": "\ud800"}', []),
    ],
)
def test_what_is_cut_or_wrong_is_told_as_far_as_it_came(said: str, text: str, calls: list[ToolCall]) -> None:
    pieces, found = parts_of(said, PartForms(HERMES, NAMES))
    assert (pieces.text, found) == (text, calls)
    assert pieces.calls == pieces_of(calls)


def test_without_a_marker_an_object_is_a_call_only_of_a_tool_that_there_is() -> None:
    person = '{"name": "Bob", "parameters": {"x": 1}}'
    assert parts_of(person, PartForms(LLAMA, NAMES)) == (Pieces(person), [])
    assert parts_of(f"Sure: {person}", PartForms(LLAMA, ("Bob",))) == (Pieces(f"Sure: {person}"), [])


def test_arguments_come_as_they_are_written_and_the_name_once() -> None:
    pieces, _ = read(spelled('<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>'), PartForms(HERMES, NAMES))
    calls = [piece for each in pieces for piece in each.calls]
    assert calls[0] == CallPiece(0, "0", "now")
    assert "".join(piece.arguments for piece in calls) == '{"a": 1}'
    assert {piece.name for piece in calls[1:]} == {""}
