"""Cuts renderings of a chat template into the parts of a turn, in tokens.

Whether they are right is checked in `turn_proof`.

With `|` where contents were, and u, a, s for what user, assistant and system say::

    u       opening user_before | user_after
    u ...   opening user_before | user_after assistant_before           with the generation prompt
    u a u   opening user_before | user_after assistant_before | assistant_after user_before | user_after
    s u     system_before | system_after user_before | user_after

so that each part is the difference of two renderings.
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
    """The template cannot be cut into parts that wrap contents; the text says why."""


class TemplateTokenizer:
    """A chat template and a tokenizer: turns conversations into tokens, as the checkpoint's own code does."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, contents: dict[str, Any]) -> None:
        """`tokenizer` encodes whole renderings; `contents`, a parsed tokenizer.json, encodes contents on their own."""
        self.template = template
        self._contents = contents
        self._control = control_tokens(contents, ())
        self._whole = tokenizer
        self._encoder = ContentEncoder(contents, self._control)

    def reserve(self, used: Iterable[int]) -> None:
        """From now on contents never become the added tokens among `used`, as in a runtime."""
        control = control_tokens(self._contents, used)
        if control != self._control:
            self._control, self._encoder = control, ContentEncoder(self._contents, control)

    def whole(self, said: Said, *, generation: bool = False) -> Tokens:
        """Tokens of the template's own rendering. Raises TemplateFailed."""
        text = self.template.render(said, generation=generation)
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)

    def content(self, text: str) -> Tokens:
        """Tokens of a content, encoded on its own."""
        return self._encoder.encode(text)

    def cut(self, roles: str, *, generation: bool = False) -> list[Tokens]:
        """The tokens before, between and after the contents of a conversation such as `uau`.

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
    """The turn template; `earlier_before` is what the template puts before a reply in an earlier turn."""

    template: TurnTemplate
    earlier_before: Tokens
    warnings: tuple[str, ...] = ()

    def wrapped(self, tokenizer: TemplateTokenizer, said: Said) -> Tokens:
        """Tokens of a conversation built from the parts, as a runtime does, up to where a reply begins."""
        template = self.template
        before = {"system": template.system_before or (), "user": template.user_before}
        after = {"system": template.system_after, "user": template.user_after}
        before["assistant"], after["assistant"] = self.earlier_before, template.assistant_after
        tokens = list(() if said[0][0] == "system" else template.opening)
        for role, content in said:
            text = content.strip() if template.strip_content else content
            tokens += (*before[role], *tokenizer.content(text), *after[role])
        return (*tokens, *template.assistant_before)


def derive_parts(tokenizer: TemplateTokenizer) -> TurnSegments:
    """Segments of the turn template. Raises Unsplittable, also for a template that refuses plain conversations."""
    try:
        return _derive(tokenizer)
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None


def _derive(tokenizer: TemplateTokenizer) -> TurnSegments:
    first, alone = tokenizer.cut("u")
    prompt = tokenizer.cut("u", generation=True)[1]
    user_after = _common_prefix(alone, prompt)
    assistant_before = prompt[len(user_after) :]
    _, header, between, _ = tokenizer.cut("uau")
    if tokenizer.cut("uauau")[:-1] != [first, header, between, header, between]:
        raise Unsplittable("the chat template does not wrap all turns alike")
    earlier_before = _without_prefix(header, user_after)
    if earlier_before is None:
        raise Unsplittable("the chat template ends what a user says otherwise when a reply follows")
    opening, user_before, assistant_after = _borders(first, between, tokenizer.cut("ua")[-1])
    system_before, system_after, warnings = _system(tokenizer, user_before)
    template = TurnTemplate(
        opening=opening,
        system_before=system_before,
        system_after=system_after,
        user_before=user_before,
        user_after=user_after,
        assistant_before=assistant_before,
        assistant_after=assistant_after,
        strip_content=_strips(tokenizer.template),
    )
    return TurnSegments(template, earlier_before, warnings)


def _borders(first: Tokens, between: Tokens, last: Tokens) -> tuple[Tokens, Tokens, Tokens]:
    """Opening, user_before and assistant_after, from the tokens before the first turn, between two turns, and at the
    end.

    Usually the last reply ends like the others. If a template omits the last end, the cut is where the turns agree.
    """
    agreed = _common_prefix(first[::-1], between[::-1])[::-1]
    for closing in (last, between[: len(between) - len(agreed)]):
        user_before = _without_prefix(between, closing)
        if user_before is not None and first[len(first) - len(user_before) :] == user_before:
            return first[: len(first) - len(user_before)], user_before, closing
    raise Unsplittable("the chat template wraps the first turn unlike the others")


def _system(tokenizer: TemplateTokenizer, user_before: Tokens) -> tuple[Tokens | None, Tokens, tuple[str, ...]]:
    """Parts around a system prompt; None and a warning if the template has no separate place for one."""
    try:
        before, between, _ = tokenizer.cut("su")
    except (TemplateFailed, Unsplittable) as error:
        return None, (), (f"no system prompts: {error}",)
    reversed_after = _without_prefix(between[::-1], user_before[::-1])
    if reversed_after is None:
        return None, (), ("no system prompts: the chat template puts them inside what the user says",)
    return before, reversed_after[::-1], ()


def _strips(template: ChatTemplate) -> bool:
    """Whether the template strips white space around contents."""
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
