"""Derives how a chat template declares tools, calls them and gives results, from its renderings of two made-up ones.

What is found is checked in `proof`. A template that knows no tools gets the plain form of `plain`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from builder_service.chat.chat_template import Said, TemplateFailed
from builder_service.chat.tools.formats import FORMATS
from builder_service.chat.tools.forms import form_of, slot_span, token_at
from builder_service.chat.turn_segments import Rendering, TemplateTokenizer, Unsplittable
from common.spec.chat.tool_template import (
    CallForm,
    Declaration,
    Form,
    Marker,
    ResultForm,
    Slot,
    ToolOpening,
    ToolTemplate,
)
from common.spec.manifest import TurnTemplate
from common.text.tools.values import Tool, ToolCall
from common.text.tools.wrapping import call_form, declarations, declared

PLACE: Mapping[str, object] = {
    "type": "object",
    "properties": {"place": {"type": "string", "description": "A town."}, "days": {"type": "integer"}},
    "required": ["place"],
}
TOOLS = (Tool("find_quokka", "Says where a quokka is.", PLACE), Tool("count_axolotls", "Counts them.", PLACE))
CALLS = (
    ToolCall("Nk3wPangl", "find_quokka", '{"place": "Lisbon", "days": 3}'),
    ToolCall("Qx7yOkapi", "count_axolotls", '{"place": "Graz"}'),
)
ANSWERS = ('Narwhal "one"', 'Ibex "two"')
"""A template that makes JSON strings of results is told by the quotes."""
_USER, _SYSTEM, _BESIDE = "Okapi", "Tamarin", "Wombat"
_TAILS = ("\n", "", "\n\n", " ")


@dataclass(frozen=True)
class ToolRenderings:
    """A chat template as it is rendered with tools; `place` are variables that say where they go."""

    tokenizer: TemplateTokenizer
    turns: TurnTemplate
    place: Mapping[str, object]

    def of(self, messages: Sequence[Said], tools: Sequence[Tool]) -> Rendering:
        """Up to where a reply begins. Raises TemplateFailed."""
        given = {"tools": [declared(tool, wrapped=True) for tool in tools], **self.place}
        return self.tokenizer.rendered(messages, given)

    @property
    def know_tools(self) -> bool:
        """Whether the template says which tools there are. Raises TemplateFailed."""
        return TOOLS[0].name in self.of([("user", _USER)], TOOLS[:1]).text


def calling(calls: Sequence[ToolCall], arguments: Sequence[object], content: str = "") -> Said:
    """A message of the assistant as templates get it."""
    functions = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": given}}
        for call, given in zip(calls, arguments, strict=True)
    ]
    return {"role": "assistant", "content": content, "tool_calls": functions}


def answering(call: ToolCall, content: str) -> Said:
    """A result as templates get it."""
    return {"role": "tool", "name": call.name, "tool_call_id": call.id, "content": content}


def derive_tools(renderings: ToolRenderings) -> ToolTemplate:
    """Raises TemplateFailed and Unsplittable."""
    declaration = _declaration(renderings)
    calls = _calls(renderings)
    return ToolTemplate(
        opening=_opening(renderings, declaration, system=False),
        system_opening=_system_opening(renderings, declaration),
        declaration=declaration,
        calls=calls,
        call_tail=_tail(renderings, calls),
        results=_results(renderings, calls),
    )


def _declaration(renderings: ToolRenderings) -> Declaration:
    text = renderings.of([("user", _USER)], TOOLS).text
    for wrapped, indent in product((True, False), (None, 4, 2)):
        form = Declaration(wrapped=wrapped, indent=indent, separator="")
        one, other = (declarations(form, [tool]) for tool in TOOLS)
        if text.count(one) == text.count(other) == 1:
            between = text[text.index(one) + len(one) : text.index(other)]
            return form.model_copy(update={"separator": between})
    raise Unsplittable("the chat template writes tools otherwise than as JSON")


def _system_opening(renderings: ToolRenderings, declaration: Declaration) -> ToolOpening | None:
    if renderings.turns.system_before is not None:
        with suppress(TemplateFailed, Unsplittable):
            return _opening(renderings, declaration, system=True)
    return None


def _opening(renderings: ToolRenderings, declaration: Declaration, *, system: bool) -> ToolOpening:
    said = [("system", _SYSTEM), ("user", _USER)][not system :]
    rendering = renderings.of(said, TOOLS)
    if rendering.text.count(_USER) != 1:
        raise Unsplittable("with tools, the chat template has what the user says more than once, or not at all")
    end, before = token_at(rendering, rendering.text.index(_USER)), renderings.turns.user_before
    inside = rendering.ids[:end][end - len(before) :] != before
    slots = {declarations(declaration, TOOLS): Slot.TOOLS, **({_SYSTEM: Slot.SYSTEM_PROMPT} if system else {})}
    end -= 0 if inside else len(before)
    return ToolOpening(form=form_of(rendering, (0, end), _control(renderings), slots), inside=inside)


def _control(renderings: ToolRenderings) -> frozenset[int]:
    return frozenset(renderings.tokenizer.added.values())


def _exchange(renderings: ToolRenderings, calls: int, results: int) -> Rendering:
    arguments = ({"place": "Lisbon", "days": 3}, {"place": "Graz"})
    answers = [answering(*pair) for pair in zip(CALLS[:results], ANSWERS, strict=False)]
    return renderings.of([("user", _USER), calling(CALLS[:calls], arguments[:calls]), *answers], TOOLS)


def _calls(renderings: ToolRenderings) -> CallForm:
    """Which of the formats the template has."""
    one = _exchange(renderings, 1, 1).text
    for form in FORMATS.values():
        if _text(form, CALLS[:1]) in one:
            several = form.several
            try:
                several = _text(form, CALLS) in _exchange(renderings, 2, 2).text
            except TemplateFailed:
                several = False
            return resolved(form.model_copy(update={"several": several}), renderings.tokenizer.added)
    raise Unsplittable(f"the chat template writes calls in none of the forms that are known: {', '.join(FORMATS)}")


def _text(form: CallForm, calls: Sequence[ToolCall]) -> str:
    return "".join(part.text for part in call_form(form, calls))


def resolved(form: CallForm, added: Mapping[str, int]) -> CallForm:
    """The form with the tokens that its markers are."""
    markers = {name: marker(found.text, added) for name in ("opens", "closes") if (found := getattr(form, name))}
    return form.model_copy(update=markers)


def marker(text: str, added: Mapping[str, int]) -> Marker:
    """A marker, by its token if it is one."""
    return Marker(text=text, token_id=added.get(text))


def _tail(renderings: ToolRenderings, form: CallForm) -> str | None:
    with suppress(TemplateFailed):
        said = calling(CALLS[:1], [{"place": "Lisbon", "days": 3}], _BESIDE)
        text = renderings.of([("user", _USER), said, answering(CALLS[0], ANSWERS[0])], TOOLS).text
        return next((tail for tail in _TAILS if _BESIDE + tail + _text(_spelled(form), CALLS[:1]) in text), None)
    return None


def _results(renderings: ToolRenderings, calls: CallForm) -> ResultForm:
    form = _block(renderings, calls, 1)
    start, end = slot_span(form)
    before, result, after = form[:start], form[start:end], form[end:]
    between = _between(renderings, calls, before, result, after)
    return ResultForm(before=before, result=result, between=between, after=after)


def _between(renderings: ToolRenderings, calls: CallForm, before: Form, result: Form, after: Form) -> Form | None:
    try:
        two = _block(renderings, calls, 2)
    except (TemplateFailed, Unsplittable):
        return None
    head, tail = (*before, *result), (*result, *after)
    if two[: len(head)] != head or two[len(two) - len(tail) :] != tail:
        raise Unsplittable("the chat template gives two results otherwise than one")
    return two[len(head) : len(two) - len(tail)]


def _block(renderings: ToolRenderings, form: CallForm, results: int) -> Form:
    """What stands between a reply that calls tools and the next: its results."""
    calls = CALLS[: results if form.several else 1]
    rendering = _exchange(renderings, len(calls), results)
    turns, text = renderings.turns, _text(_spelled(form), calls)
    start = token_at(rendering, rendering.text.index(text) + len(text)) + len(turns.assistant_after)
    end = len(rendering.ids) - len(turns.assistant_before)
    if (
        rendering.ids[start - len(turns.assistant_after) : start] != turns.assistant_after
        or rendering.ids[end:] != turns.assistant_before
        or start >= end
    ):
        raise Unsplittable("the chat template ends a reply that calls tools, or begins the next, otherwise than others")
    inside = rendering.text[rendering.offsets[start][0] :]
    return form_of(rendering, (start, end), _control(renderings), _result_slots(inside, results))


def _spelled(form: CallForm) -> CallForm:
    return resolved(form, {})


def _result_slots(text: str, results: int) -> dict[str, Slot]:
    slots = dict[str, Slot]()
    for call, answer in zip(CALLS[:results], ANSWERS, strict=False):
        slots |= {answer: Slot.CONTENT} if answer in text else {_quoted(answer): Slot.CONTENT_JSON}
        slots |= {call.id: Slot.CALL_ID} if call.id in text else {}
        slots |= {call.name: Slot.NAME} if call.name in text else {}
    return slots


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
