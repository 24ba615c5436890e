"""Puts the forms of a tool template around tools, calls and results.

The builder proves with this code that the tokens are those of the chat template's own rendering, and the runtime runs
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby

from common.spec.chat.tool_template import (
    CallForm,
    Declaration,
    Form,
    FormPart,
    Marker,
    Slot,
    ToolOpening,
    ToolTemplate,
)
from common.text.tools.values import Tool, ToolCall, ToolResult
from common.text.wrapping import Tokens, Wrapping

Values = Mapping[Slot, str]


class ToolWrapping:
    """A tool template beside the turn template that it belongs to."""

    def __init__(self, template: ToolTemplate, wrapping: Wrapping) -> None:
        self.template = template
        self._wrapping = wrapping

    def form_of_opening(self, system_prompt: str) -> ToolOpening:
        """The form of a conversation's beginning; a system prompt has to have a place."""
        if not system_prompt:
            return self.template.opening
        assert self.template.system_opening is not None
        return self.template.system_opening

    def opening(self, tools: Sequence[Tool], system_prompt: str = "") -> Tokens:
        """First tokens of a conversation with tools."""
        declared = declarations(self.template.declaration, tools)
        values = {Slot.TOOLS: declared, Slot.SYSTEM_PROMPT: self._wrapping.stripped(system_prompt)}
        opening = self.form_of_opening(system_prompt)
        return self._tokens([(part, values) for part in opening.form], unspaced=opening.unspaced)

    def first_user(self, content: str, system_prompt: str = "") -> Tokens:
        """Tokens of what a user says right behind the opening."""
        opening = self.form_of_opening(system_prompt)
        if opening.inside:
            return self._wrapping.user_inside(content, unspaced=opening.unspaced)
        return self._wrapping.messages([("user", content)])

    def results(self, results: Sequence[ToolResult]) -> Tokens:
        """Tokens of results in a row; more than one only where the template takes several."""
        form, parts = self.template.results, list[tuple[FormPart, Values]]()
        for index, result in enumerate(results):
            values = _values(result)
            between = form.between if index else form.before
            assert between is not None
            parts += [(part, values) for part in (*between, *form.result)]
        return self._tokens([*parts, *((part, {}) for part in form.after)], unspaced=self.template.unspaced)

    def message(self, content: str, calls: Sequence[ToolCall]) -> Tokens:
        """Tokens of a message of the assistant that calls tools."""
        template = self._wrapping.template
        before = template.assistant_before if template.earlier_before is None else template.earlier_before
        parts = call_form(self.template.calls, calls)
        if content:
            parts = (FormPart(text=self._wrapping.stripped(content) + (self.template.call_tail or "")), *parts)
        said = self._tokens([(part, {}) for part in parts], unspaced=self.template.unspaced)
        return (*before, *said, *template.assistant_after)

    def _tokens(self, parts: Sequence[tuple[FormPart, Values]], *, unspaced: bool) -> Tokens:
        """Encode what stands between control tokens as one text."""
        found: Tokens = ()
        for is_control, group in groupby(parts, key=lambda pair: bool(pair[0].tokens)):
            if is_control:
                found += tuple(token for part, _ in group for token in part.tokens)
            elif text := "".join(values[part.slot] if part.slot else part.text for part, values in group):
                found += self._wrapping.encoded(text, unspaced=unspaced)
        return found


def declarations(form: Declaration, tools: Sequence[Tool]) -> str:
    """Tools as text."""
    return form.separator.join(
        json.dumps(declared(tool, wrapped=form.wrapped), ensure_ascii=False, indent=form.indent) for tool in tools
    )


def declared(tool: Tool, *, wrapped: bool) -> dict[str, object]:
    """A tool as chat templates get it: wrapped as `{"type": "function", ...}`, or what is inside."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function: dict[str, object] = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function} if wrapped else function


def call_form(form: CallForm, calls: Sequence[ToolCall]) -> Form:
    """Calls as they are in a reply."""
    objects = [_object(form, call) for call in calls]
    groups = [[text] for text in objects] if form.each else [objects]
    parts = list[FormPart]()
    for group in groups:
        if parts and form.separator:
            parts.append(FormPart(text=form.separator))
        inside = form.before + form.separator.join(group) + form.after
        parts += [*_marker(form.opens), FormPart(text=inside), *_marker(form.closes)]
    return tuple(parts)


def _object(form: CallForm, call: ToolCall) -> str:
    call_id = {form.id_key: call.id} if form.id_key else {}
    arguments = json.loads(call.arguments)
    return json.dumps({form.name_key: call.name, form.arguments_key: arguments, **call_id}, ensure_ascii=False)


def _marker(marker: Marker | None) -> Form:
    if marker is None:
        return ()
    return (FormPart(text=marker.text) if marker.token_id is None else FormPart(tokens=(marker.token_id,)),)


def _values(result: ToolResult) -> Values:
    return {
        Slot.NAME: result.name,
        Slot.CALL_ID: result.call_id,
        Slot.CONTENT: result.content,
        Slot.CONTENT_JSON: json.dumps(result.content, ensure_ascii=False),
    }
