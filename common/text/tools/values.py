"""Tools, calls of them and their results. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tool:
    """A function that a model may call; `parameters` is a JSON schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """A call: `arguments` is JSON as text.

    `incomplete`: the arguments are no whole JSON, since the reply ended inside them or the model wrote something else.
    """

    id: str
    name: str
    arguments: str
    incomplete: bool = False


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered to the call `call_id`."""

    content: str
    name: str = ""
    call_id: str = ""
