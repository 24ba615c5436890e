"""How a chat template says which tools there are, calls them and gives their results; how it marks reasoning.

Forms are texts with slots between control tokens. What stands between two control tokens is encoded as one text, since
a tokenizer joins characters across the borders of what is said there.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Slot(StrEnum):
    """What goes into a form."""

    SYSTEM_PROMPT = "system_prompt"
    TOOLS = "tools"
    NAME = "name"
    """Of the tool whose result it is."""
    CALL_ID = "tool_call_id"
    CONTENT = "content"
    """A result as it is."""
    CONTENT_JSON = "content_json"
    """A result as a JSON string."""


class FormPart(_Part):
    """One of three: control tokens, text, or a slot."""

    tokens: tuple[int, ...] = ()
    """Tokens as they are."""
    text: str = ""
    """Text that is encoded, never to control tokens."""
    slot: Slot | None = None
    """What is said there."""


Form = tuple[FormPart, ...]


class Marker(_Part):
    """What stands before or behind a part of a reply."""

    text: str
    """As it is written."""
    token_id: int | None = None
    """The one token that it is; None: it is spelled out."""


class ToolOpening(_Part):
    """The first tokens of a conversation with tools."""

    form: Form
    """Up to the first message, with the tools, and the system prompt if there is one."""
    inside: bool = False
    """It ends inside the first message of the user, which has nothing before it then."""
    unspaced: bool = False
    """Its texts, and what is inside, are encoded without the space that the tokenizer puts before texts."""


class Declaration(_Part):
    """How tools are written."""

    wrapped: bool = True
    """Each as `{"type": "function", "function": {...}}`; else what is inside alone."""
    indent: int | None = None
    """Of the JSON; None: on one line."""
    separator: str
    """Text between two tools."""


class CallForm(_Part):
    """How a reply calls tools. A call is a JSON object with a name and arguments."""

    opens: Marker | None
    """Before calls; None: the reply begins with the object."""
    before: str = ""
    """Text between `opens` and the first object."""
    separator: str = ""
    """Text between two calls."""
    after: str = ""
    """Text between the last object and `closes`."""
    closes: Marker | None
    """Behind calls; None: the reply ends there."""
    each: bool = True
    """`opens` and `closes` are around every call; else around all of them."""
    several: bool = True
    """A reply may have more than one call."""
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    """Key of the call's id, where the template writes one; models do not."""


class ResultForm(_Part):
    """How results of tools are given: ``before + result + after``, and ``between`` two of them."""

    before: Form
    result: Form
    between: Form | None
    """None: the template takes one result at a time."""
    after: Form

    @property
    def slots(self) -> frozenset[Slot]:
        """What has to be known of a result."""
        return frozenset(part.slot for part in self.result if part.slot is not None)


class ToolTemplate(_Part):
    """Everything about tools that a chat template says, proven on its own renderings."""

    by_template: bool = True
    """False: the chat template knows no tools, and gets them in system prompts and messages of the user."""
    opening: ToolOpening
    """Without a system prompt."""
    system_opening: ToolOpening | None
    """With one; None: sessions with tools have none."""
    declaration: Declaration
    calls: CallForm
    call_tail: str | None = "\n"
    """Text between what a reply says and its calls, in history; None: the template drops or changes what it says."""
    results: ResultForm
    unspaced: bool = False
    """Calls and results are encoded without the space that the tokenizer puts before texts."""


class Reasoning(_Part):
    """How a model marks what it thinks before it replies."""

    opens: Marker
    closes: Marker
