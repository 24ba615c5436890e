"""Cuts renderings of a chat template into the parts of a turn, in tokens. Proves nothing: see `turn_proof`.

With `|` where contents were, and u, a, s for what user, assistant and system say::

    u       opening user_before | user_after
    u ...   opening user_before | user_after assistant_before           with the generation prompt
    u a u   opening user_before | user_after assistant_before | assistant_after user_before | user_after
    s u     system_before | system_after user_before | user_after

so that the parts follow by taking one from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tokenizers import Tokenizer

from builder_service.chat.chat_template import ChatTemplate, TemplateFailed
from common.spec.manifest import TurnTemplate
from common.text.content import ContentEncoder, control_tokens

Tokens = tuple[int, ...]
Said = Sequence[tuple[str, str]]  # role and content
ROLES = {"s": "system", "u": "user", "a": "assistant"}
WORDS = ("Quokka", "Narwhal", "Axolotl", "Pangolin", "Okapi", "Ibex")


class Unsplittable(Exception):
    """The template has no parts that could wrap contents; the text says why."""


class Speech:
    """A template and a tokenizer together: conversations to tokens, as the checkpoint's own code does it."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, contents: dict[str, Any]) -> None:
        """Renderings are tokenized whole by `tokenizer`, contents apart by `contents`, a parsed tokenizer.json."""
        self.template = template
        self._contents = contents
        self._control = control_tokens(contents, ())
        self._whole = tokenizer
        self._encoder = ContentEncoder(contents, self._control)

    def reserve(self, used: Iterable[int]) -> None:
        """From now on contents do not become these tokens either, where they are added ones, as in a runtime."""
        control = control_tokens(self._contents, used)
        if control != self._control:
            self._control, self._encoder = control, ContentEncoder(self._contents, control)

    def whole(self, said: Said, *, generation: bool = False) -> Tokens:
        """Tokens of the template's own rendering. Raises TemplateFailed."""
        text = self.template.render(said, generation=generation)
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)

    def content(self, text: str) -> Tokens:
        """Tokens of a content, encoded apart."""
        return self._encoder.encode(text)

    def cut(self, roles: str, *, generation: bool = False) -> list[Tokens]:
        """What stands before, between and behind the contents of a conversation, such as `uau`.

        Raises TemplateFailed and Unsplittable.
        """
        said = [(ROLES[role], word) for role, word in zip(roles, WORDS, strict=False)]
        text = self.template.render(said, generation=generation)
        for role, word in said:
            if text.count(word) != 1:
                raise Unsplittable(f"the chat template has what the {role} says {text.count(word)} times, not once")
        rest = self.whole(said, generation=generation)
        found = []
        for role, word in said:
            content = self.content(word)
            at = _find(rest, content)
            if at is None:
                raise Unsplittable(f"behind the chat template, what the {role} says becomes other tokens than alone")
            found.append(rest[:at])
            rest = rest[at + len(content) :]
        return [*found, rest]


@dataclass(frozen=True)
class TurnSegments:
    """The turn template; `earlier_before` stands before a reply once it is history, where the template differs."""

    template: TurnTemplate
    earlier_before: Tokens
    warnings: tuple[str, ...] = ()

    def wrapped(self, speech: Speech, said: Said) -> Tokens:
        """Tokens of a conversation put together from parts, as a runtime does it, up to where a reply begins."""
        template = self.template
        before = {"system": template.system_before or (), "user": template.user_before}
        after = {"system": template.system_after, "user": template.user_after}
        before["assistant"], after["assistant"] = self.earlier_before, template.assistant_after
        tokens = list(() if said[0][0] == "system" else template.opening)
        for role, content in said:
            text = content.strip() if template.strip_content else content
            tokens += (*before[role], *speech.content(text), *after[role])
        return (*tokens, *template.assistant_before)


def derive_parts(speech: Speech) -> TurnSegments:
    """Segments of the turn template. Raises Unsplittable, also for a template that refuses plain conversations."""
    try:
        return _derive(speech)
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None


def _derive(speech: Speech) -> TurnSegments:
    first, alone = speech.cut("u")
    prompt = speech.cut("u", generation=True)[1]
    user_after = _common_prefix(alone, prompt)
    assistant_before = prompt[len(user_after) :]
    _, header, between, _ = speech.cut("uau")
    if speech.cut("uauau")[:-1] != [first, header, between, header, between]:
        raise Unsplittable("the chat template does not wrap all turns alike")
    earlier_before = _without_prefix(header, user_after)
    if earlier_before is None:
        raise Unsplittable("the chat template ends what a user says otherwise when a reply follows")
    opening, user_before, assistant_after = _borders(first, between, speech.cut("ua")[-1])
    system_before, system_after, warnings = _system(speech, user_before)
    template = TurnTemplate(
        opening=opening,
        system_before=system_before,
        system_after=system_after,
        user_before=user_before,
        user_after=user_after,
        assistant_before=assistant_before,
        assistant_after=assistant_after,
        strip_content=_strips(speech.template),
    )
    return TurnSegments(template, earlier_before, warnings)


def _borders(first: Tokens, between: Tokens, last: Tokens) -> tuple[Tokens, Tokens, Tokens]:
    """Opening, user_before and assistant_after, from what stands before the first turn, between two, and at the end.

    A reply at the end mostly ends as others do; a template that leaves out the last end is cut where turns agree.
    """
    agreed = _common_prefix(first[::-1], between[::-1])[::-1]
    for closing in (last, between[: len(between) - len(agreed)]):
        user_before = _without_prefix(between, closing)
        if user_before is not None and first[len(first) - len(user_before) :] == user_before:
            return first[: len(first) - len(user_before)], user_before, closing
    raise Unsplittable("the chat template wraps the first turn unlike the others")


def _system(speech: Speech, user_before: Tokens) -> tuple[Tokens | None, Tokens, tuple[str, ...]]:
    """Segments around a system prompt; None where it has no place of its own, with the reason as a warning."""
    try:
        before, between, _ = speech.cut("su")
    except (TemplateFailed, Unsplittable) as error:
        return None, (), (f"no system prompts: {error}",)
    reversed_after = _without_prefix(between[::-1], user_before[::-1])
    if reversed_after is None:
        return None, (), ("no system prompts: the chat template puts them inside what the user says",)
    return before, reversed_after[::-1], ()


def _strips(template: ChatTemplate) -> bool:
    """Whether white space around what a user says is lost."""
    plain, padded = (template.render([("user", text)]) for text in (WORDS[0], f" \n{WORDS[0]}\n "))
    return plain == padded


def _find(tokens: Tokens, part: Tokens) -> int | None:
    size = len(part)
    return next((at for at in range(len(tokens) - size + 1) if tokens[at : at + size] == part), None)


def _common_prefix(one: Tokens, other: Tokens) -> Tokens:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(token for token, _ in same)


def _without_prefix(tokens: Tokens, prefix: Tokens) -> Tokens | None:
    return tokens[len(prefix) :] if tokens[: len(prefix)] == prefix else None
