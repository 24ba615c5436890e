"""The plain form of tools, for chat templates that know none: in the system prompt, and in messages of the user."""

from __future__ import annotations

from collections.abc import Mapping

from builder_service.chat.tools.derive import resolved
from builder_service.chat.tools.formats import HERMES, PREAMBLE, RESPONSE
from builder_service.chat.turn_segments import Unsplittable
from common.spec.chat.tool_template import Declaration, Form, FormPart, ResultForm, Slot, ToolOpening, ToolTemplate
from common.spec.manifest import TurnTemplate


def plain_tools(turns: TurnTemplate, added: Mapping[str, int]) -> ToolTemplate:
    """Raises Unsplittable for a template that has no place for a system prompt, either."""
    inside = turns.system_user_before == ()
    if turns.system_before is None or (turns.system_unspaced and not inside):
        raise Unsplittable("the chat template has no place for them, nor for a system prompt")
    return ToolTemplate(
        by_template=False,
        opening=ToolOpening(form=_opening(turns, ()), inside=inside, unspaced=turns.system_unspaced),
        system_opening=ToolOpening(
            form=_opening(turns, (FormPart(slot=Slot.SYSTEM_PROMPT), FormPart(text="\n\n"))),
            inside=inside,
            unspaced=turns.system_unspaced,
        ),
        declaration=Declaration(wrapped=False, separator="\n"),
        calls=resolved(HERMES, added),
        results=_results(turns),
    )


def _opening(turns: TurnTemplate, first: Form) -> Form:
    head, tail = PREAMBLE
    return (
        FormPart(tokens=turns.system_before or ()),
        *first,
        FormPart(text=head),
        FormPart(slot=Slot.TOOLS),
        FormPart(text=tail + turns.system_suffix),
        FormPart(tokens=turns.system_after),
    )


def _results(turns: TurnTemplate) -> ResultForm:
    head, tail = RESPONSE
    return ResultForm(
        before=(FormPart(tokens=turns.user_before), FormPart(text=head)),
        result=(FormPart(slot=Slot.CONTENT),),
        between=(FormPart(text=f"{tail}\n{head}"),),
        after=(FormPart(text=tail + turns.user_suffix), FormPart(tokens=turns.user_after)),
    )
