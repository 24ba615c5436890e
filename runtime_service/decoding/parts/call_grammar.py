"""The grammar of replies that call tools, in llguidance's form of Lark's syntax. Pure text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from common.spec.chat.tool_template import CallForm, Marker
from common.text.tools.values import Tool
from runtime_service.decoding.parts.reply_parts import PartForms
from runtime_service.domain.tools import ToolChoice, ToolMode

_ANY = r"(.|\n)*"
_TEXT = f"/{_ANY}/"
_MARGIN = r"/[ \n]{0,8}/"
_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": True,
}
"""Arguments are written as chat templates write them, which is what models have read. Keywords of a schema that
llguidance does not know are not held to: the model has read them all the same.
"""
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def call_grammar(forms: PartForms, tools: Sequence[Tool], choice: ToolChoice | None) -> str | None:
    """The grammar of a reply that calls `tools` as is chosen; None: any reply will do.

    Where the model decides, a call is held to the form from its marker on; without a marker nothing tells one.
    """
    if forms.calls is None:
        return None
    if choice is not None and choice.is_forced:
        named = [tool for tool in tools if choice.mode is ToolMode.REQUIRED or tool.name == choice.function]
        several = forms.calls.several and choice.mode is ToolMode.REQUIRED
        return _grammar("calls", forms, named, [*_calls(forms.calls, several=several)])
    if forms.calls.opens is None:
        return None
    return _grammar("said", forms, tools, [*_said(forms.calls), *_calls(forms.calls, several=forms.calls.several)])


def thought_grammar(forms: PartForms) -> str:
    """A rule `before` of what may come before the rest, a thought; empty where there is none.

    It has to come, and is open already, if the reply `thinks` from the beginning.
    """
    if (reasoning := forms.reasoning) is None:
        return ""
    is_token = reasoning.closes.token_id is not None
    inside = f"{_TEXT} {_mark(reasoning.closes)} {_MARGIN}" if is_token else f"thought {_MARGIN}"
    before = inside if forms.thinks else f"({_mark(reasoning.opens)} {inside})?"
    return f"before: {before}\n" + ("" if is_token else f"thought[lazy]: {_up_to(reasoning.closes)}\n")


def _grammar(start: str, forms: PartForms, tools: Sequence[Tool], rules: Sequence[str]) -> str:
    thought = thought_grammar(forms)
    assert forms.calls is not None
    first = f"start: {'before ' if thought else ''}{start}\n{thought}"
    return first + "\n".join([*rules, *_objects(forms.calls, tools)]) + "\n"


def _said(form: CallForm) -> Iterator[str]:
    """Text, or text and then calls."""
    assert form.opens is not None
    if form.opens.token_id is not None:
        yield f"said: {_TEXT} calls?"
    else:  # the marker is the end of the text that is lazily taken
        yield "said: WITHOUT | opened behind"
        yield f"WITHOUT: {_TEXT} & ~/{_ANY}{_escaped(form.opens)}{_ANY}/"
        yield f"opened[lazy]: {_up_to(form.opens)}"


def _calls(form: CallForm, *, several: bool) -> Iterator[str]:
    opens, closes = (_mark(marker) if marker else "" for marker in (form.opens, form.closes))
    before, after, between = (json.dumps(text) if text else "" for text in (form.before, form.after, form.separator))
    more = f"({between} {{}})*" if several else "{}"
    if form.each:
        rest = more.format("call") if several else ""
        yield f"calls: call {rest}"
        yield f"call: {opens} inside"
        yield f"inside: {before} object {after} {closes}"
        yield f"behind: inside {rest}"
    else:
        rest = more.format("object") if several else ""
        yield f"calls: {opens} behind"
        yield f"behind: {before} object {rest} {after} {closes}"


def _objects(form: CallForm, tools: Sequence[Tool]) -> Iterator[str]:
    yield "object: " + " | ".join(f"object{index}" for index in range(len(tools)))
    for index, tool in enumerate(tools):
        head = json.dumps(f'{{"{form.name_key}": {json.dumps(tool.name)}, "{form.arguments_key}": ')
        schema = {**(tool.parameters or _NO_ARGUMENTS), "x-guidance": _OPTIONS}
        yield f'object{index}: {head} arguments{index} "}}"'
        yield f"arguments{index}: %json {json.dumps(schema)}"


def _mark(marker: Marker) -> str:
    return json.dumps(marker.text) if marker.token_id is None else f"<[{marker.token_id}]>"


def _up_to(marker: Marker) -> str:
    """Text that ends with the marker."""
    return f"/{_ANY}{_escaped(marker)}/"


def _escaped(marker: Marker) -> str:
    return "".join(rf"\x{{{ord(character):X}}}" for character in marker.text)
