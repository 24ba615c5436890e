"""Tools of one session as text: what is said of them at the beginning, calls and results in messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from common.errors import InvalidArgument, Reason
from common.spec.chat.tool_template import Reasoning, Slot, ToolTemplate
from common.text.tools.values import Tool, ToolResult
from common.text.tools.wrapping import ToolWrapping
from common.text.vocabulary import Vocabulary
from common.text.wrapping import Wrapping
from runtime_service.decoding.parts.reply_parts import PartForms
from runtime_service.domain.tools import FIELD, ToolChoice, ToolMode, check_arguments
from runtime_service.domain.turn import Message

TOOL = "tool"
NO_CALLS = ToolChoice(ToolMode.NONE)
_MESSAGES = "turn.messages.messages"


class ToolText:
    """The tools of a session on an engine; there may be none."""

    def __init__(self, wrapping: Wrapping, tools: Sequence[Tool], reference: str) -> None:
        """Raises InvalidArgument (INVALID_FIELD) for tools on an engine that takes none."""
        self.tools = tools
        self._wrapping = wrapping
        self._reference = reference
        template = wrapping.template.tools
        self._own = None if template is None else ToolWrapping(template, wrapping)
        if tools:
            self._required(FIELD)

    @property
    def template(self) -> ToolTemplate | None:
        """How the engine has tools; None: it has none."""
        return self._wrapping.template.tools

    def opening(self, system_prompt: str) -> tuple[int, ...]:
        """First tokens of a conversation with tools. Raises InvalidArgument (INVALID_FIELD)."""
        own = self._required(FIELD)
        if system_prompt and own.template.system_opening is None:
            message = (
                f"system_prompt is set, but the chat template of {self._reference} has no place for one beside tools"
            )
            field = "open.new_session.system_prompt"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field=field)
        return own.opening(self.tools, system_prompt)

    def begins_inside(self, opening: tuple[int, ...]) -> bool:
        """Whether the first message of the user has no beginning of its own behind the `opening`."""
        own = self._required(FIELD)
        plain, behind = own.template.opening, own.template.system_opening
        if behind is None or plain.inside == behind.inside:
            return plain.inside
        return plain.inside if opening == own.opening(self.tools) else behind.inside

    def first_user(self, content: str) -> tuple[int, ...]:
        """Tokens of a message of the user that begins inside the opening."""
        template = self._required(FIELD).template
        inside = template.opening if template.opening.inside else template.system_opening
        assert inside is not None
        return self._wrapping.user_inside(content, unspaced=inside.unspaced)

    def check(self, messages: Sequence[Message]) -> None:
        """Raise InvalidArgument (INVALID_FIELD) for calls and results that the chat template cannot write."""
        for index, message in enumerate(messages):
            field = f"{_MESSAGES}[{index}]"
            if message.role == TOOL:
                self._check_result(message, field)
                if (
                    index
                    and messages[index - 1].role == TOOL
                    and self._required(field).template.results.between is None
                ):
                    raise _invalid(field, "is another result: the chat template takes one a turn")
            elif message.tool_calls:
                self._check_calls(message, field)

    def tokens(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of messages in order."""
        found = tuple[int, ...]()
        for is_result, group in groupby(messages, key=lambda message: message.role == TOOL):
            found += (self._results if is_result else self._said)(list(group))
        return found

    def _results(self, messages: Sequence[Message]) -> tuple[int, ...]:
        results = [ToolResult(message.content, message.name, message.tool_call_id) for message in messages]
        return self._required(_MESSAGES).results(results)

    def _said(self, messages: Sequence[Message]) -> tuple[int, ...]:
        found = tuple[int, ...]()
        for message in messages:
            if message.tool_calls:
                found += self._required(_MESSAGES).message(message.content, message.tool_calls)
            else:
                found += self._wrapping.messages([(message.role, message.content)])
        return found

    def _check_result(self, message: Message, field: str) -> None:
        needed = self._required(f"{field}.role").template.results.slots
        for slot, name in ((Slot.NAME, "name"), (Slot.CALL_ID, "tool_call_id")):
            if slot in needed and not getattr(message, name):
                raise _invalid(f"{field}.{name}", "is empty; the chat template writes it in results")

    def _check_calls(self, message: Message, field: str) -> None:
        if message.role != "assistant":
            raise _invalid(f"{field}.tool_calls", f"is set, but role is {message.role!r}; it has to be 'assistant'")
        template = self._required(f"{field}.tool_calls").template
        if len(message.tool_calls) > 1 and not template.calls.several:
            what = f"has {len(message.tool_calls)} calls; the chat template takes one a message"
            raise _invalid(f"{field}.tool_calls", what)
        if message.content and template.call_tail is None:
            raise _invalid(f"{field}.content", "is set beside tool_calls; the chat template would leave it out")
        for at, call in enumerate(message.tool_calls):
            check_arguments(call, f"{field}.tool_calls[{at}]")

    def _required(self, field: str) -> ToolWrapping:
        if self._own is None:
            why = self._wrapping.template.no_tools or "it was built before there were any; build it again"
            raise _invalid(field, f"is of tools, and {self._reference} takes none: {why}")
        return self._own


def opens_reasoning(assistant_before: Sequence[int], reasoning: Reasoning, vocabulary: Vocabulary) -> bool:
    """Whether the prompt has a mark of reasoning open where the reply begins."""
    text = b"".join(map(vocabulary.token_bytes, assistant_before)).decode(errors="replace")
    return text.rfind(reasoning.opens.text) > text.rfind(reasoning.closes.text)


def thought_first(forms: PartForms, before: Sequence[int], vocabulary: Vocabulary) -> PartForms:
    """What a reply with a form consists of: a thought, if the prompt opens one or the model may, and then text.

    A mark that is spelled out could be the form's own: only the prompt opens such a thought.
    """
    if forms.reasoning is None or not (forms.thinks or forms.reasoning.opens.token_id is not None):
        return PartForms()
    closes = forms.reasoning.closes.text.encode()
    if not forms.thinks and closes in b"".join(map(vocabulary.token_bytes, before)):
        return PartForms()  # the prompt has thought for it
    return PartForms(reasoning=forms.reasoning, thinks=forms.thinks, once=True)


def roles_of(messages: Sequence[Message]) -> Iterator[str]:
    """Who says messages; results are said in place of the user."""
    return ("user" if message.role == TOOL else message.role for message in messages)


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} {what}", field=field)
