"""Puts the parts of a turn template around what is said.

The builder proves with this code that the tokens are those of the chat template's own rendering, and the runtime runs
it. Knows no tokenizer and no sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from common.spec.manifest import TurnForm, TurnTemplate

Tokens = tuple[int, ...]
Encode = Callable[[str], Tokens]
Said = Sequence[tuple[str, str]]
"""Role, `user` or `assistant`, and content."""


class Wrapping:
    """A turn template with the encoders of contents. Safe to share between threads, as far as the encoders are."""

    def __init__(self, template: TurnTemplate, encode: Encode, encode_unspaced: Encode) -> None:
        """`encode_unspaced` is `encode` without the space that a tokenizer may put before texts."""
        self.template = template
        self._encode = encode
        self._encode_unspaced = encode_unspaced
        self._encode_by_system = encode_unspaced if template.system_unspaced else encode

    def content(self, text: str) -> Tokens:
        """Tokens of a content alone."""
        return self._encode(self.stripped(text))

    def stripped(self, text: str) -> str:
        """A content as the template has it."""
        return text.strip() if self.template.strip_content else text

    def encoded(self, text: str, *, unspaced: bool) -> Tokens:
        """Tokens of a text as it is."""
        return self._encode_unspaced(text) if unspaced else self._encode(text)

    def opening(self, system_prompt: str = "") -> Tokens:
        """First tokens of a conversation; a template that gets a system prompt has to have a place for it."""
        template = self.template
        if not system_prompt:
            return template.opening
        assert template.system_before is not None
        prompt = self._encode_by_system(self.stripped(system_prompt) + template.system_suffix)
        return (*template.system_before, *prompt, *template.system_after)

    def begins_otherwise(self, opening: Tokens) -> bool:
        """Whether the first message behind the `opening` has other tokens than it would have later."""
        template = self.template
        first = template.first_user_before if opening == template.opening else template.system_user_before
        return first is not None or (template.system_unspaced and opening != template.opening)

    def messages(self, said: Said, opening: Tokens | None = None) -> Tokens:
        """Tokens of messages in order; of the first of a conversation, if they follow its `opening`."""
        if not said:
            return ()
        (role, content), *later = said
        first = self._message(role, content) if opening is None else self._first_message(role, content, opening)
        return sum((self._message(*message) for message in later), first)

    def user_inside(self, content: str, *, unspaced: bool) -> Tokens:
        """Tokens of a message of the user whose beginning is part of the opening."""
        said = self.stripped(content) + self.template.user_suffix
        return (*self.encoded(said, unspaced=unspaced), *self.template.user_after)

    def conversation(self, said: Said, system_prompt: str = "") -> Tokens:
        """Tokens of a whole conversation, up to where a reply begins."""
        opening = self.opening(system_prompt)
        return (*opening, *self.messages(said, opening), *self.template.assistant_before)

    def _message(self, role: str, content: str) -> Tokens:
        template = self.template
        if role == "user":
            return (*template.user_before, *self._of_user(content, self._encode), *template.user_after)
        before = template.assistant_before if template.earlier_before is None else template.earlier_before
        return (*before, *self.content(content), *template.assistant_after)

    def _first_message(self, role: str, content: str, opening: Tokens) -> Tokens:
        """Some templates begin the first turn unlike the others, and some put a system prompt inside it."""
        template = self.template
        if role != "user" or not self.begins_otherwise(opening):
            return self._message(role, content)
        if opening == template.opening:
            before, encode = template.first_user_before, self._encode
        else:
            before, encode = template.system_user_before, self._encode_by_system
        before = template.user_before if before is None else before
        return (*before, *self._of_user(content, encode), *template.user_after)

    def _of_user(self, content: str, encode: Encode) -> Tokens:
        return encode(self.stripped(content) + self.template.user_suffix)


def unproven_forms(template: TurnTemplate, roles: Sequence[str], *, no_reply: bool) -> Iterator[TurnForm]:
    """Forms of a turn's messages, given by their `roles`, that were not proven for the template."""
    forms = {
        TurnForm.USER_TWICE: ("user", "user") in pairwise(roles) or (no_reply and roles[-1] == "user"),
        TurnForm.ASSISTANT_FIRST: roles[0] == "assistant",
        TurnForm.ASSISTANT_TWICE: ("assistant", "assistant") in pairwise(roles),
        TurnForm.REPLY_TO_ASSISTANT: roles[-1] == "assistant" and not no_reply,
    }
    return (form for form in template.unproven if forms[form])
