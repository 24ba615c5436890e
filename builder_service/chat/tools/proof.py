"""Compares tools, calls and results, put together by their forms, with the template's own renderings, in tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from builder_service.chat.chat_template import TemplateFailed
from builder_service.chat.tools.derive import CALLS, TOOLS, ToolRenderings, answering, calling, derive_tools
from builder_service.chat.tools.formats import PLACES
from builder_service.chat.tools.plain import plain_tools
from builder_service.chat.turn_segments import TemplateTokenizer, Unsplittable
from common.spec.chat.tool_template import ToolOpening, ToolTemplate
from common.spec.manifest import TurnTemplate
from common.text.content import template_tokens
from common.text.tools.values import Tool, ToolCall, ToolResult
from common.text.tools.wrapping import ToolWrapping
from common.text.wrapping import Tokens

_NESTED = Tool(
    "add_note",
    "Keeps a note: what, für wen, and how much (0 to 1).",
    {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}}, "much": {"minimum": 0.5}},
    },
)
DECLARED = ((TOOLS[0],), TOOLS, (_NESTED, *TOOLS), (Tool("now", "What time it is."),))
"""Tools of sessions that are compared."""
RESULTS = ("It is 21 degrees.", '{"degrees": 21.5, "sky": "clear"}', "Grüße, 世界\n\nline two")
_ASKED, _SYSTEM = "What is the weather in Lisbon?", "You are kind."
_MOVED = "the chat template has tools elsewhere in later turns; here they stay where they were"
NO_TOOLS = "no tools"


def with_tools(tokenizer: TemplateTokenizer, turns: TurnTemplate) -> tuple[TurnTemplate, tuple[str, ...]]:
    """The turn template with what is proven of tools, or why there is nothing; and what a person should know."""
    try:
        tools, warnings = _with_tools(tokenizer, turns)
    except (TemplateFailed, Unsplittable) as error:
        return turns.model_copy(update={"no_tools": str(error)}), (f"{NO_TOOLS}: {error}",)
    return turns.model_copy(update={"tools": tools}), warnings


def _with_tools(tokenizer: TemplateTokenizer, turns: TurnTemplate) -> tuple[ToolTemplate, tuple[str, ...]]:
    every = [ToolRenderings(tokenizer, turns, place) for place in PLACES]
    if not any(renderings.know_tools for renderings in every):
        return plain_tools(turns, tokenizer.added), ()
    failures = []
    for renderings in every:
        try:
            tools = derive_tools(renderings)
            return _proven(renderings, turns.model_copy(update={"tools": tools}), tools)
        except (TemplateFailed, Unsplittable) as error:
            failures.append(error)
    raise failures[-1]


def _proven(
    renderings: ToolRenderings, turns: TurnTemplate, tools: ToolTemplate
) -> tuple[ToolTemplate, tuple[str, ...]]:
    """The template as far as it is proven. Raises Unsplittable where sessions without a system prompt are not."""
    proof = _Proof(renderings, turns)
    tools = proof.exchanged(tools.model_copy(update={"opening": proof.opened(tools, "")}))
    warnings = [] if proof.stays(tools) else [_MOVED]
    try:
        tools = tools.model_copy(update={"system_opening": proof.opened(tools, _SYSTEM)})
    except (TemplateFailed, Unsplittable) as error:
        tools = tools.model_copy(update={"system_opening": None})
        warnings.append(f"no system prompts in sessions with tools: {error}")
    return tools, tuple(warnings)


class _Proof:
    """Compares one template with its renderings."""

    def __init__(self, renderings: ToolRenderings, turns: TurnTemplate) -> None:
        self._renderings = renderings
        self._turns = turns
        renderings.tokenizer.reserve({*renderings.tokenizer.control, *template_tokens(turns)})

    def opened(self, tools: ToolTemplate, system: str) -> ToolOpening:
        """The form of the opening that gives the template's own tokens, with or without spaces before texts."""
        name = "system_opening" if system else "opening"
        opening: ToolOpening | None = getattr(tools, name)
        if opening is None:
            raise Unsplittable("the chat template has no place for one beside tools")
        for unspaced in (False, True):
            tried = opening.model_copy(update={"unspaced": unspaced})
            if all(self._opens(tools.model_copy(update={name: tried}), declared, system) for declared in DECLARED):
                return tried
        raise Unsplittable("the chat template's own rendering has other tokens for tools than their form makes")

    def exchanged(self, tools: ToolTemplate) -> ToolTemplate:
        """The template whose calls and results give the template's own tokens. Raises TemplateFailed, Unsplittable."""
        for unspaced in (False, True):
            tried = tools.model_copy(update={"unspaced": unspaced})
            if all(self._exchanges(tried, *exchange) for exchange in _exchanges(tools)):
                return tried
        raise Unsplittable(
            "the chat template's own rendering has other tokens for calls or results than their forms make"
        )

    def stays(self, tools: ToolTemplate) -> bool:
        """Whether tools are where they were when more is said."""
        wrapping = self._wrapping(tools)
        said = [("user", _ASKED), ("assistant", "Yes."), ("user", "No")]
        rest = self._renderings.tokenizer.wrapping(self._turns).messages(said[1:])
        with suppress(TemplateFailed):
            made = (*wrapping.opening(TOOLS), *wrapping.first_user(_ASKED), *rest, *self._turns.assistant_before)
            return self._renderings.of(said, TOOLS).ids == made
        return False

    def _opens(self, tools: ToolTemplate, declared: Sequence[Tool], system: str) -> bool:
        said = [("system", _SYSTEM), ("user", _ASKED)][not system :]
        made = (*self._begun(tools, declared, system), *self._turns.assistant_before)
        return self._renderings.of(said, declared).ids == made

    def _exchanges(self, tools: ToolTemplate, calls: Sequence[ToolCall], results: Sequence[str]) -> bool:
        """A session in which tools are called, and answer."""
        asked = list(zip(CALLS, results, strict=False))
        wrapping = self._wrapping(tools)
        made = (
            *self._begun(tools, TOOLS, ""),
            *wrapping.message("", calls),
            *wrapping.results([ToolResult(content, call.name, call.id) for call, content in asked]),
            *self._turns.assistant_before,
        )
        called = calling(calls, [json.loads(call.arguments) for call in calls])
        said = [("user", _ASKED), called, *(answering(*pair) for pair in asked)]
        return self._renderings.of(said, TOOLS).ids == made

    def _begun(self, tools: ToolTemplate, declared: Sequence[Tool], system: str) -> Tokens:
        wrapping = self._wrapping(tools)
        return (*wrapping.opening(declared, system), *wrapping.first_user(_ASKED, system))

    def _wrapping(self, tools: ToolTemplate) -> ToolWrapping:
        return ToolWrapping(tools, self._renderings.tokenizer.wrapping(self._turns))


def _exchanges(tools: ToolTemplate) -> Iterator[tuple[Sequence[ToolCall], Sequence[str]]]:
    yield from ((CALLS[:1], (result,)) for result in RESULTS)
    if tools.results.between is not None:
        yield (CALLS if tools.calls.several else CALLS[:1]), RESULTS[:2]
