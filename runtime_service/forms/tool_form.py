"""The form of replies that call tools. Pure; what llguidance says of it is not known here."""

from __future__ import annotations

from collections.abc import Sequence

from common.text.tools.values import Tool
from runtime_service.decoding.parts.call_grammar import call_grammar
from runtime_service.decoding.parts.reply_parts import PartForms
from runtime_service.domain.tools import CHOICE_FIELD, ToolChoice
from runtime_service.forms.form import Form
from runtime_service.forms.json_schema import check_schema


def tool_form(parts: PartForms, tools: Sequence[Tool], choice: ToolChoice | None) -> Form | None:
    """What a reply has to be that calls `tools` as is chosen; None: anything.

    Raises InvalidArgument (INVALID_FIELD) for schemas of which no form can be made.
    """
    grammar = call_grammar(parts, tools, choice)
    if grammar is None:
        return None
    for tool in tools:
        check_schema(dict(tool.parameters), CHOICE_FIELD)
    return Form.lark(grammar, CHOICE_FIELD)
