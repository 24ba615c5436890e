"""Between what people say and tokens, for one engine: the turn template around contents, and bytes of tokens.

Knows the tokenizer and the derived template; knows nothing of sessions, positions or the wire. What people say is
encoded apart from the template, and never becomes a control token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

import structlog

from common.errors import Internal, InvalidArgument, Reason
from common.panics import panics_as_errors
from common.spec.chat.template_choices import NotAChoice, Value, choose, same, shown
from common.spec.manifest import Manifest, TurnForm, TurnTemplate
from common.text.content import ContentEncoder, control_tokens, template_tokens
from common.text.prefix_space import without_prefix_space
from common.text.tools.values import Tool
from common.text.vocabulary import NO_TOKENIZER, Vocabulary
from common.text.wrapping import Wrapping, unproven_forms
from runtime_service.decoding.detokenizer import Detokenizer
from runtime_service.decoding.parts.reply_parts import PartForms
from runtime_service.decoding.tool_text import NO_CALLS, TOOL, ToolText, opens_reasoning, roles_of, thought_first
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.tools import FIELD as TOOLS_FIELD
from runtime_service.domain.tools import ToolChoice, ToolMode
from runtime_service.domain.turn import Message

MESSAGES = "turn.messages.messages"
log = structlog.get_logger()

ROLES = ("user", "assistant", TOOL)
SYSTEM_PROMPT = "open.new_session.system_prompt"
VARIABLES = "open.new_session.options.template_variables"


class Text:
    """Text of one engine. Has no state of its own: safe to share between sessions and threads.

    Without a template (`accepts_text` false) turns come as token ids; without a tokenizer (`decodes_text` false)
    replies go out as token ids alone.
    """

    def __init__(self, tokenizer_json: bytes | None, manifest: Manifest) -> None:
        tokenizer = json.loads(tokenizer_json) if tokenizer_json else NO_TOKENIZER
        self._reference = manifest.reference
        self._decodes = tokenizer_json is not None
        self._vocabulary = Vocabulary(tokenizer)
        self._variables = manifest.spec.template_variables
        self._variants = manifest.text.variants if manifest.text else ()
        template = manifest.text.template if manifest.text else None
        every = [*([template] if template else []), *(variant.template for variant in self._variants)]
        self.control = control_tokens(tokenizer, {*manifest.end_token_ids, *chain(*map(template_tokens, every))})
        """Tokens that no content becomes."""
        self._names = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}
        self._encoder = ContentEncoder(tokenizer, self.control) if template else None
        self._wrapping = self._wrap(template, tokenizer, self._encoder) if template and self._encoder else None
        self._tokenizer = tokenizer
        self._tools = ToolText(self._wrapping, (), self._reference) if self._wrapping else None
        self._chosen: dict[int, Text] = {}

    @property
    def accepts_text(self) -> bool:
        """Whether turns can be given as text and messages."""
        return self._wrapping is not None

    @property
    def decodes_text(self) -> bool:
        """Whether replies have text."""
        return self._decodes

    def settle(self, asked: Mapping[str, Value]) -> dict[str, Value]:
        """The value of each variable of the chat template that sessions choose: the one `asked` for, else the default.

        Raises InvalidArgument naming what was not declared, or what the builder could not prove.
        """
        variables = self._variables if self._wrapping else {}
        try:
            values = choose(variables, asked)
        except NotAChoice as error:
            raise _no_choice(f"{VARIABLES}: {error}") from None
        if self._variant(values) is None and not _equal(values, choose(variables, {})):
            what = " and ".join(f"{name} {shown(value)}" for name, value in values.items())
            raise _no_choice(f"{VARIABLES}: {self._reference} has no turns with {what}; its warnings say why")
        return values

    def choosing(self, values: Mapping[str, Value]) -> Text:
        """This text as a session has it that chose `values`, which `settle` gave."""
        index = self._variant(values)
        if index is None or self._encoder is None:
            return self
        if index not in self._chosen:
            chosen = copy(self)
            wrapping = self._wrap(self._variants[index].template, self._tokenizer, self._encoder)
            chosen._wrapping = wrapping  # noqa: SLF001 - another of this class
            chosen._tools = ToolText(wrapping, (), self._reference)  # noqa: SLF001
            self._chosen[index] = chosen
        return self._chosen[index]

    def with_tools(self, tools: Sequence[Tool]) -> Text:
        """This text as a session with `tools` has it. Raises InvalidArgument (INVALID_FIELD, TEXT_UNSUPPORTED)."""
        if not tools:
            return self
        chosen = copy(self)
        chosen._tools = ToolText(self._required(TOOLS_FIELD), tools, self._reference)  # noqa: SLF001 - another of this class
        return chosen

    def part_forms(self, choice: ToolChoice | None, before: Sequence[int] | None = None) -> PartForms:
        """What a reply can consist of; `before` is what the prompt ends with, where that is not the template's."""
        if self._wrapping is None or self._tools is None:
            return PartForms()
        template, tools = self._wrapping.template, self._tools
        called = bool(tools.tools) and (choice is None or choice.mode is not ToolMode.NONE)
        reasoning, prompt = template.reasoning, template.assistant_before if before is None else before
        return PartForms(
            calls=tools.template.calls if called and tools.template else None,
            names=frozenset(tool.name for tool in tools.tools),
            reasoning=reasoning,
            thinks=reasoning is not None and opens_reasoning(prompt, reasoning, self._vocabulary),
        )

    def parts_of(self, options: GenerationOptions, before: Sequence[int] | None = None) -> PartForms:
        """The same for a turn: with a form a reply thinks first, if it does, and the rest is text."""
        if options.response_format is None:
            return self.part_forms(options.tool_choice, before)
        forms = self.part_forms(NO_CALLS, before)
        if before is None and self._wrapping is not None:
            before = self._wrapping.template.assistant_before
        return thought_first(forms, before or (), self._vocabulary)

    def opening(self, system_prompt: str = "") -> tuple[int, ...]:
        """First tokens of a conversation. Raises InvalidArgument where a system prompt cannot be given."""
        if self._tools is not None and self._tools.tools:
            return self._tools.opening(system_prompt)
        if not system_prompt:
            return self._wrapping.opening() if self._wrapping else ()
        wrapping = self._required(SYSTEM_PROMPT)
        if wrapping.template.system_before is None:
            message = f"system_prompt is set, but the chat template of {self._reference} has no place for one"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field=SYSTEM_PROMPT)
        return wrapping.opening(system_prompt)

    def user(self, text: str, *, no_reply: bool = False) -> tuple[int, ...]:
        """Tokens of what a user says, in its wrapping.

        Raises InvalidArgument: TEXT_UNSUPPORTED, or INVALID_FIELD for a turn that the template does not have.
        """
        wrapping = self._required("turn.text")
        self._check_form(wrapping.template, ("user",), no_reply=no_reply)
        return wrapping.messages([("user", text)])

    def messages(self, messages: Sequence[Message], *, no_reply: bool = False) -> tuple[int, ...]:
        """Tokens of several messages in order; where a reply is wanted, `assistant_before` comes next.

        Raises InvalidArgument: TEXT_UNSUPPORTED, or INVALID_FIELD for no messages, an unknown role, or an order of
        roles that the template does not have.
        """
        wrapping = self._required(MESSAGES)
        if not messages:
            raise InvalidArgument(Reason.INVALID_FIELD, "messages is empty; at least one is needed", field=MESSAGES)
        for index, message in enumerate(messages):
            if message.role not in ROLES:
                raise _unknown_role(index, message.role)
        assert self._tools is not None
        self._tools.check(messages)
        self._check_form(wrapping.template, list(roles_of(messages)), no_reply=no_reply)
        return self._tools.tokens(messages)

    def begins_otherwise(self, opening: tuple[int, ...]) -> bool:
        """Whether the first message behind a conversation's `opening` has other tokens than it would have later."""
        if self._tools is not None and self._tools.tools:
            return self._tools.begins_inside(opening)
        return self._wrapping is not None and self._wrapping.begins_otherwise(opening)

    def first(self, messages: Sequence[Message], opening: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens of messages that were accepted, behind the `opening` of a conversation."""
        assert self._tools is not None
        if not messages:
            return ()
        first, *rest = messages
        if first.role != "user" or not self.begins_otherwise(opening):
            return self._tools.tokens(messages)
        if self._tools.tools:
            return (*self._tools.first_user(first.content), *self._tools.tokens(rest))
        said = self._required(MESSAGES).messages([(first.role, first.content)], opening)
        return (*said, *self._tools.tokens(rest))

    @property
    def assistant_before(self) -> tuple[int, ...]:
        """Tokens before a reply."""
        return self._wrapping.template.assistant_before if self._wrapping else ()

    @property
    def closing(self) -> tuple[int, ...]:
        """Tokens after a reply."""
        return self._wrapping.template.assistant_after if self._wrapping else ()

    def closing_after(self, last_token_id: int | None) -> tuple[int, ...]:
        """Tokens after a reply whose last token is `last_token_id`: a control token of the closing is not doubled.

        What stands before it in the closing, such as the space of `" </s>"`, is left out with it.
        """
        closing = self.closing
        if last_token_id in self.control and last_token_id in closing:
            return closing[closing.index(last_token_id) + 1 :]
        return closing

    def encode(self, content: str) -> tuple[int, ...]:
        """Tokens of a content alone."""
        return self._required("turn.text").content(content)

    def fewest(self, content: str) -> int:
        """How many tokens a content has at least; cheap, whatever its length."""
        if self._wrapping is None or self._encoder is None:
            return 0
        return self._encoder.fewest(self._wrapping.stripped(content))

    def special_token(self, text: str) -> int | None:
        """Id of the special token that is written so; it has no text when it is generated."""
        return self._names.get(text)

    @property
    def vocabulary(self) -> Vocabulary:
        """Bytes of its tokens; empty without a tokenizer."""
        return self._vocabulary

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, not always whole characters; none without a tokenizer."""
        return self._vocabulary.token_bytes(token_id)

    def detokenizer(self) -> Detokenizer:
        """A fresh one, for one reply."""
        return Detokenizer(self._vocabulary)

    @staticmethod
    def _wrap(template: TurnTemplate, tokenizer: dict[str, Any], encoder: ContentEncoder) -> Wrapping:
        encode = _guarded(encoder.encode)
        if not template.system_unspaced:
            return Wrapping(template, encode, encode)
        unspaced = ContentEncoder(without_prefix_space(tokenizer), encoder.control)
        return Wrapping(template, encode, _guarded(unspaced.encode))

    def _variant(self, values: Mapping[str, Value]) -> int | None:
        """Which of the variants has these values; None for the defaults, and for what was not proven."""
        found = (index for index, variant in enumerate(self._variants) if _equal(variant.variables, values))
        return next(found, None)

    def _required(self, field: str) -> Wrapping:
        if self._wrapping is None:
            message = f"{field} is text, but {self._reference} takes token ids only"
            raise InvalidArgument(Reason.TEXT_UNSUPPORTED, message, field=field)
        return self._wrapping

    def _check_form(self, template: TurnTemplate, roles: Sequence[str], *, no_reply: bool) -> None:
        for form in unproven_forms(template, roles, no_reply=no_reply):
            field = "turn.no_reply" if form is TurnForm.USER_TWICE and no_reply else MESSAGES
            message = f"{field}: the chat template of {self._reference} has no {_FORMS[form]}"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field=field, form=form)


_FORMS = {
    TurnForm.USER_TWICE: "two messages of the user in a row, and none that is left without a reply",
    TurnForm.ASSISTANT_FIRST: "turns that begin with a message of the assistant",
    TurnForm.ASSISTANT_TWICE: "two messages of the assistant in a row",
    TurnForm.REPLY_TO_ASSISTANT: "replies to a message of the assistant; end with the user's, or set turn.no_reply",
}


def _equal(one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def _no_choice(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.INVALID_FIELD, message, field=VARIABLES)


def _guarded(encode: Callable[[str], tuple[int, ...]]) -> Callable[[str], tuple[int, ...]]:
    """Whatever the tokenizer's native code raises, its panics too, is an error of the text at hand and of no other."""

    def guarded(text: str) -> tuple[int, ...]:
        try:
            with panics_as_errors():
                return encode(text)
        except Exception as error:
            log.exception("tokenizer.failed", characters=len(text))
            what = "the tokenizer fails on this text; the server's log has the details"
            raise Internal(Reason.INTERNAL, what) from error

    return guarded


def _unknown_role(index: int, role: str) -> InvalidArgument:
    field = f"{MESSAGES}[{index}].role"
    message = f"{field} is {role[:100]!r}; it has to be 'user', 'assistant' or 'tool'"
    return InvalidArgument(Reason.INVALID_FIELD, message, field=field, role=role[:100])
