"""Tools that a request declares, and whether its reply calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sinkserve.client import Tool
from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import Body, Sampling


class _Function(Body):
    """`strict` is kept to where the reply has to call something."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class _Named(Body):
    type: Literal["function"]
    name: str


def tools_of(asked: Sampling) -> tuple[Tool, ...]:
    """Functions, whose fields stand beside `type` or below `function`.

    Raises WebError for tools of other types, and where only one call at a time is wanted.
    """
    if asked.tools and not asked.parallel_tool_calls:
        what = "parallel_tool_calls: a reply may call several tools here"
        raise WebError(400, what, "unsupported_value", "parallel_tool_calls")
    return tuple(_tool(each, f"tools[{index}]") for index, each in enumerate(asked.tools or ()))


def choice_of(given: object, tools: Sequence[Tool]) -> str | None:
    """As the SDK has it: auto, none, required, or the name of a tool. Raises WebError for other choices."""
    if given is None or (given in ("auto", "none") and not tools):
        return None
    if given in ("auto", "none", "required"):
        return str(given)
    if not isinstance(given, Mapping):
        raise WebError(400, f"tool_choice cannot be {repr(given)[:100]}", "invalid_value", "tool_choice")
    named = _Named.parse(_flat(given, "tool_choice"), "tool_choice")
    return named.name


def _tool(given: Mapping[str, Any], where: str) -> Tool:
    kind = given.get("type")
    if kind != "function":
        what = f"{where}: tools of type {kind!r} are not supported here, functions are"
        raise WebError(400, what, "unsupported_value", f"{where}.type")
    fields = {name: value for name, value in _flat(given, where).items() if name != "type"}
    function = _Function.parse(fields, where)
    return Tool(name=function.name, description=function.description, parameters=function.parameters)


def _flat(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    below = given.get("function")
    if below is None:
        return given
    if not isinstance(below, Mapping):
        raise WebError(400, f"{where}.function has to be an object", "invalid_type", f"{where}.function")
    return {**{name: value for name, value in given.items() if name != "function"}, **below}
