"""Cuts renderings of a chat template into the parts of a turn, in tokens.

Whether they are right is checked in `turn_proof`.

With `|` where contents were, and u, a, s for what user, assistant and system say::

    u       opening user_before | user_after
    u ...   opening user_before | user_after assistant_before           with the generation prompt
    u u     opening user_before | user_after user_before | user_after   where the template permits it
    u a u   opening user_before | user_after earlier_before | assistant_after user_before | user_after
    s u     system_before | system_after user_before | user_after

so that each part is the difference of two renderings. The first turn may begin unlike the others: because a tokenizer
has another token for the same text at the beginning, or because a system prompt is put inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from types import MappingProxyType
from typing import Any, TypeAlias

from tokenizers import Tokenizer

from builder_service.chat.chat_template import ChatTemplate, TemplateFailed
from builder_service.chat.chat_template import Said as Message
from common.spec.manifest import TurnTemplate
from common.text.content import ContentEncoder, control_tokens
from common.text.prefix_space import without_prefix_space
from common.text.wrapping import Said, Tokens, Wrapping

ROLES = {"s": "system", "u": "user", "a": "assistant"}
WORDS = ("Quokka", "Narwhal", "Axolotl", "Pangolin", "Okapi", "Ibex")

Suffixes: TypeAlias = Mapping[str, str]
NONE: Suffixes = MappingProxyType({})


class Unsplittable(Exception):
    """The template cannot be cut into parts that wrap contents; the text says why."""


@dataclass(frozen=True)
class Rendering:
    """A rendering with its tokens, and where in the text each stands."""

    text: str
    ids: Tokens
    offsets: tuple[tuple[int, int], ...]


class TemplateTokenizer:
    """A chat template and a tokenizer: turns conversations into tokens, as the checkpoint's own code does."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, contents: dict[str, Any]) -> None:
        """`tokenizer` encodes whole renderings; `contents`, a parsed tokenizer.json, encodes contents on their own."""
        self.template = template
        self.control = control_tokens(contents, ())
        self._contents = contents
        self._whole = tokenizer
        self._reserve()

    @property
    def adds_space(self) -> bool:
        """Whether the tokenizer of contents puts a space before texts."""
        return without_prefix_space(self._contents) != self._contents

    def reserve(self, used: Iterable[int]) -> None:
        """From now on contents never become the added tokens among `used`, as in a runtime."""
        control = control_tokens(self._contents, used)
        if control != self.control:
            self.control = control
            self._reserve()

    def whole(self, said: Said, *, generation: bool = False) -> Tokens:
        """Tokens of the template's own rendering. Raises TemplateFailed."""
        text = self.template.render(said, generation=generation)
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)

    def rendered(self, messages: Sequence[Message], given: Mapping[str, object]) -> Rendering:
        """The template's own rendering up to where a reply begins. Raises TemplateFailed."""
        text = self.template.render(messages, generation=True, given=given)
        encoded = self._whole.encode(text, add_special_tokens=False)
        return Rendering(text, tuple(encoded.ids), tuple(encoded.offsets))

    @property
    def added(self) -> Mapping[str, int]:
        """Added tokens by their text, other than white space."""
        tokens = self._contents["added_tokens"]
        return {token["content"]: token["id"] for token in tokens if not token["content"].isspace()}

    def wrapping(self, template: TurnTemplate) -> Wrapping:
        """The template with this tokenizer, as a runtime has it."""
        return Wrapping(template, self._encode, self._encode_unspaced)

    def cut(
        self, roles: str, *, generation: bool = False, suffixes: Suffixes = NONE, unspaced: bool = False
    ) -> list[Tokens]:
        """The tokens before, between and after the contents of a conversation such as `uau`.

        `suffixes` are texts behind the contents of a role that belong to them. Contents may have no space before them
        (`unspaced`) although the tokenizer puts one before texts. Raises TemplateFailed and Unsplittable.
        """
        encode = self._encode_unspaced if unspaced else self._encode
        said = _said(roles)
        text = self.template.render(said, generation=generation)
        for role, word in said:
            if text.count(word) != 1:
                raise Unsplittable(f"the chat template has what the {role} says {text.count(word)} times, not once")
        rest = self.whole(said, generation=generation)
        found = []
        for role, word in said:
            content = encode(word + suffixes.get(role, ""))
            at = _find(rest, content)
            if at is None:
                raise Unsplittable(f"behind the chat template, what the {role} says becomes other tokens than alone")
            found.append(rest[:at])
            rest = rest[at + len(content) :]
        return [*found, rest]

    def _reserve(self) -> None:
        self._encode = ContentEncoder(self._contents, self.control).encode
        self._encode_unspaced = self._encode
        if self.adds_space:
            self._encode_unspaced = ContentEncoder(without_prefix_space(self._contents), self.control).encode

    def text_after_system(self) -> str:
        """The text behind a system prompt. Raises TemplateFailed."""
        return self._text_after("su")

    def text_after_user(self) -> str:
        """The text that stands behind every message of the user. Raises TemplateFailed."""
        alone, last, earlier = self._text_after("u"), self._text_after("u", generation=True), self._text_after("ua")
        ends = range(len(alone), -1, -1)
        return next(alone[:end] for end in ends if last.startswith(alone[:end]) and earlier.startswith(alone[:end]))

    def _text_after(self, roles: str, *, generation: bool = False) -> str:
        """The text between the first content and the control token or content that follows."""
        said = _said(roles)
        text = self.template.render(said, generation=generation)
        start = text.index(WORDS[0]) + len(WORDS[0])
        encoded = self._whole.encode(text, add_special_tokens=False)
        found = zip(encoded.ids, encoded.offsets, strict=True)
        borders = [begin for token, (begin, _) in found if token in self.control and begin >= start]
        return text[start : min([*borders, *(text.index(word) for _, word in said[1:])], default=len(text))]


@dataclass(frozen=True)
class TurnSegments:
    """The turn template, and what a person should know of it."""

    template: TurnTemplate
    warnings: tuple[str, ...] = ()


def derive_parts(tokenizer: TemplateTokenizer, user_suffix: str = "") -> TurnSegments:
    """Segments of the turn template, without system prompts, if what a user says is encoded together with the text
    `user_suffix` behind it.

    Raises Unsplittable, also for a template that refuses plain conversations.
    """
    try:
        return TurnSegments(_derive(tokenizer, user_suffix))
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None


def _derive(tokenizer: TemplateTokenizer, user_suffix: str) -> TurnTemplate:
    cut = partial(tokenizer.cut, suffixes={"user": user_suffix})
    first, alone = cut("u")
    prompt = cut("u", generation=True)[1]
    _, header, between, _ = cut("uau")
    if cut("uauau")[:-1] != [first, header, between, header, between]:
        raise Unsplittable("the chat template does not wrap all turns alike")
    user_after, user_before = _user_borders(_common_prefix(alone, prompt), first, _between_users(cut, first))
    earlier_before, assistant_before = (_without_prefix(tokens, user_after) for tokens in (header, prompt))
    if earlier_before is None or assistant_before is None:
        raise Unsplittable("the chat template ends what a user says otherwise when a reply follows")
    user_before, assistant_after = _reply_borders(between, first, cut("ua")[-1], user_before)
    opening, first_user_before = _first_borders(tokenizer, first, user_before)
    return TurnTemplate(
        opening=opening,
        system_before=None,
        user_before=user_before,
        first_user_before=first_user_before,
        user_suffix=user_suffix,
        user_after=user_after,
        assistant_before=assistant_before,
        earlier_before=None if earlier_before == assistant_before else earlier_before,
        assistant_after=assistant_after,
        strip_content=_strips(tokenizer.template),
    )


def _between_users(cut: Callable[[str], list[Tokens]], first: Tokens) -> Tokens | None:
    """What stands between two messages of the user in a row; None if the template has no such conversations."""
    try:
        found = cut("uu")
    except (TemplateFailed, Unsplittable):
        return None
    return found[1] if found[0] == first else None


def _user_borders(end: Tokens, first: Tokens, between: Tokens | None) -> tuple[Tokens, Tokens | None]:
    """user_after, and user_before if it is known, from the `end` of a message that is the last, the tokens before the
    `first`, and those `between` two messages of the user.

    Usually the last message ends like the others. A template that always appends the assistant's header has it at the
    end too; then the cut is where messages begin alike.
    """
    if between is None:
        return end, None
    user_before = _without_prefix(between, end)
    if user_before is None and (user_before := _common_suffix(first, between)):
        return between[: len(between) - len(user_before)], user_before
    return end, user_before


def _reply_borders(between: Tokens, first: Tokens, last: Tokens, user_before: Tokens | None) -> tuple[Tokens, Tokens]:
    """user_before and assistant_after, from the tokens `between` a reply and a message, before the `first` message,
    and behind the `last` reply.

    Usually the last reply ends like the others. If a template omits the last end, the cut is where messages begin
    alike.
    """
    if user_before and between[len(between) - len(user_before) :] == user_before:
        return user_before, between[: len(between) - len(user_before)]
    found = _without_prefix(between, last)
    if found is None:
        found = _common_suffix(first, between)
    return found, between[: len(between) - len(found)]


def _first_borders(tokenizer: TemplateTokenizer, first: Tokens, user_before: Tokens) -> tuple[Tokens, Tokens | None]:
    """Opening and, where it is not user_before, what stands before the first message."""
    size = len(first) - len(user_before)
    if first[size:] == user_before:
        return first[:size], None
    opening = tuple(takewhile(lambda token: token in tokenizer.control and token not in user_before, first))
    return opening, first[len(opening) :]


def with_system(tokenizer: TemplateTokenizer, template: TurnTemplate, suffix: str, *, unspaced: bool) -> TurnTemplate:
    """The template with the parts around a system prompt, which is encoded together with the text `suffix`, and
    `unspaced` without the space that the tokenizer puts before texts, as is the message behind it.

    Raises TemplateFailed and Unsplittable.
    """
    suffixes = {"system": suffix, "user": template.user_suffix}
    before, between, _ = tokenizer.cut("su", suffixes=suffixes, unspaced=unspaced)
    size = len(between) - len(template.user_before)
    inside = between[size:] != template.user_before if size >= 0 else True
    return template.model_copy(
        update={
            "system_before": before,
            "system_suffix": suffix,
            "system_after": between if inside else between[:size],
            "system_user_before": () if inside else None,
            "system_unspaced": unspaced,
        }
    )


def _strips(template: ChatTemplate) -> bool:
    """Whether the template strips white space around contents."""
    plain, padded = (template.render([("user", text)]) for text in (WORDS[0], f" \n{WORDS[0]}\n "))
    return plain == padded


def _said(roles: str) -> list[tuple[str, str]]:
    return [(ROLES[role], word) for role, word in zip(roles, WORDS, strict=False)]


def _find(tokens: Tokens, part: Tokens) -> int | None:
    size = len(part)
    return next((at for at in range(len(tokens) - size + 1) if tokens[at : at + size] == part), None)


def _common_prefix(one: Tokens, other: Tokens) -> Tokens:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(token for token, _ in same)


def _common_suffix(one: Tokens, other: Tokens) -> Tokens:
    """The longest end of both."""
    return _common_prefix(one[::-1], other[::-1])[::-1]


def _without_prefix(tokens: Tokens, prefix: Tokens) -> Tokens | None:
    """The tokens behind the prefix; None if they do not begin with it."""
    return tokens[len(prefix) :] if tokens[: len(prefix)] == prefix else None
