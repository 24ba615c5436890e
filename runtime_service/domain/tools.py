"""Tools of a session, and whether a turn calls them: what a client may ask for. Plain data and rules."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from common.errors import InvalidArgument, Reason
from common.text.tools.values import Tool, ToolCall

FIELD = "open.new_session.tools"
CHOICE_FIELD = "turn.generation.tool_choice"
MOST_TOOLS = 64
MOST_BYTES = 1 << 16
"""Of names, descriptions and parameters together, in UTF-8."""
MOST_DEPTH = 64
"""Of a schema, and of arguments."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 9  # what templates of Mistral's accept


class ToolMode(StrEnum):
    """Whether a reply calls tools; names as on the wire. FUNCTION: the one that is named."""

    AUTO = "AUTO"
    NONE = "NONE"
    REQUIRED = "REQUIRED"
    FUNCTION = "FUNCTION"


@dataclass(frozen=True)
class ToolChoice:
    """What a turn says of calls."""

    mode: ToolMode
    function: str = ""

    @property
    def is_forced(self) -> bool:
        """Whether the reply has to call something."""
        return self.mode in {ToolMode.REQUIRED, ToolMode.FUNCTION}


Choice = Annotated[ToolChoice | None, Field(exclude_if=lambda value: value is None)]
"""Not written where there is none: a request of before has the same digest."""


def check_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a choice that a session with `tools` does not have."""
    if choice is None or choice.mode in {ToolMode.AUTO, ToolMode.NONE}:
        return
    if not tools:
        raise _invalid(CHOICE_FIELD, "asks for a call, but the session has no tools", choice.mode)
    names = [tool.name for tool in tools]
    if choice.mode is ToolMode.FUNCTION and choice.function not in names:
        known = ", ".join(names)[:500]
        raise _invalid(f"{CHOICE_FIELD}.function", f"has to be one of the session's: {known}", choice.function)


def check_tools(tools: Sequence[Tool]) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for names that no tool can have, or that two have."""
    for index, tool in enumerate(tools):
        if not _NAME.fullmatch(tool.name):
            what = "has to be 1 to 64 letters, digits, '_', '-' and '.'"
            raise _invalid(f"{FIELD}[{index}].name", what, tool.name)
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _invalid(f"{FIELD}[{index}].name", "is the name of another tool as well", name)


def check_sizes(count: int, size_bytes: int) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for more tools than a session may have; before anything is made of them."""
    if count > MOST_TOOLS:
        raise _invalid(FIELD, f"may be at most {MOST_TOOLS}", count)
    if size_bytes > MOST_BYTES:
        raise _invalid(FIELD, f"may have at most {MOST_BYTES} bytes together", size_bytes)


def parameters_of(text: str, field: str) -> dict[str, Any]:
    """A JSON schema from its text; raises InvalidArgument (INVALID_FIELD) for what is no JSON object."""
    if not text:
        return {}
    parameters = _object(text, field, "has to be a JSON schema, as text")
    if parameters and parameters.get("type", "object") != "object":
        raise _invalid(field, 'has to be the schema of an object, with "type": "object"', parameters["type"])
    return parameters


def check_arguments(call: ToolCall, field: str) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a call in a message whose arguments are no JSON object."""
    if not call.name:
        raise _invalid(f"{field}.name", "has to be the name of a tool", call.name)
    _object(call.arguments, f"{field}.arguments", "has to be a JSON object, as text")


def call_id(turn_id: str, index: int) -> str:
    """The id of a call of a turn: the same whenever the turn is run again."""
    number = int.from_bytes(hashlib.sha256(f"{turn_id}/{index}".encode()).digest()[:8], "big")
    return "".join(_ALPHABET[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(_ID_LENGTH))


def _object(text: str, field: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError) as error:
        raise _invalid(field, f"{what}: {str(error)[:100]}", text) from None
    if not isinstance(value, dict):
        raise _invalid(field, what, text)
    if _is_deep(value, MOST_DEPTH):
        raise _invalid(field, f"may have at most {MOST_DEPTH} levels", text)
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _is_deep(value: object, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deep(each, levels - 1) for each in inside)


def _invalid(field: str, what: str, value: object) -> InvalidArgument:
    shown = str(value)[:100]
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} {what}; it is {shown!r}", field=field, value=shown)
