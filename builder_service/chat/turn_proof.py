"""Compares conversations wrapped by the parts of a turn template with the template's own renderings, in tokens.

Ordinary contents must give the same tokens in every turn; otherwise the parts are refused. Contents that are empty, or
begin or end with white space, may give other tokens, because a tokenizer may join characters on both sides of the
border. That is only a warning: the text is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product

from builder_service.chat.chat_template import TemplateFailed
from builder_service.chat.tools.proof import with_tools
from builder_service.chat.tools.reasoning import reasoning_of
from builder_service.chat.turn_segments import (
    ROLES,
    TemplateTokenizer,
    TurnSegments,
    Unsplittable,
    derive_parts,
    with_system,
)
from common.spec.manifest import TurnForm, TurnTemplate
from common.text.wrapping import Said

PLAIN = (
    "Hello there!",
    "What is 2 + 2?",
    "No",
    "Grüße aus Köln, 世界 🙂",
    "def f(x):\n    return x + 1\n\nprint(f(1))",
    "1. one\n2. two (and a half)",
    "'quoted', \"twice\"; <b>bold</b>",
)
EDGE = ("", " leading space", "trailing space ", "\nleading line", "trailing line\n", "\n\n", "...", "\ttab")
_STAYS = "here earlier turns stay as they were"
REASONING = "<think>\nLet me see.\n</think>\n\nYes."


FORMS: Mapping[TurnForm, tuple[str, ...]] = {
    TurnForm.USER_TWICE: ("uu", "uauu", "uuau", "suu"),
    TurnForm.ASSISTANT_FIRST: ("au", "auau", "uaau", "sau"),
    TurnForm.ASSISTANT_TWICE: ("uaau", "uaaau"),
    TurnForm.REPLY_TO_ASSISTANT: ("ua", "uaua"),
}
"""Conversations of each form; a turn that begins with the assistant's message may follow a reply."""


def prove(tokenizer: TemplateTokenizer, parts: TurnSegments) -> TurnSegments:
    """The parts, reduced to what is proven, with warnings for the rest.

    Raises Unsplittable if ordinary conversations give other tokens than the template's rendering. System prompts and
    forms of turns for which that is so are left out.
    """
    template, warnings = _with_system(tokenizer, _proven_users(tokenizer, parts.template))
    template = template.model_copy(update={"unproven": tuple(_unproven(tokenizer, template))})
    found = (*warnings, *_refused(template), *_rewritten(tokenizer, template), *_edges(tokenizer, template))
    template = template.model_copy(update={"reasoning": reasoning_of(tokenizer)})
    template, of_tools = with_tools(tokenizer, template)
    return TurnSegments(template, (*parts.warnings, *found, *of_tools))


def _proven_users(tokenizer: TemplateTokenizer, template: TurnTemplate) -> TurnTemplate:
    """Encode what users say alone; if that gives other tokens, together with the text that the template puts behind.

    Raises TemplateFailed and Unsplittable: what is wrong with it alone.
    """
    try:
        return _checked(tokenizer, template)
    except Unsplittable as error:
        suffix, alone = tokenizer.text_after_user(), error
    with suppress(Unsplittable):
        return _checked(tokenizer, derive_parts(tokenizer, suffix).template)
    raise alone


def _checked(tokenizer: TemplateTokenizer, template: TurnTemplate) -> TurnTemplate:
    for roles in ("u", "uau", "uauau"):
        _check(tokenizer, template, roles)
    return template


def _with_system(tokenizer: TemplateTokenizer, template: TurnTemplate) -> tuple[TurnTemplate, tuple[str, ...]]:
    """The template with the parts of system prompts; or without, and a warning that says why."""
    try:
        found = _proven_system(tokenizer, template)
    except (TemplateFailed, Unsplittable) as error:
        return template, (f"no system prompts: {error}",)
    try:
        _check(tokenizer, found, "suau")
    except Unsplittable:
        return found, (f"the chat template moves or rewrites the system prompt in later turns; {_STAYS}",)
    return found, ()


def _proven_system(tokenizer: TemplateTokenizer, template: TurnTemplate) -> TurnTemplate:
    """Encode system prompts alone; if that gives other tokens, together with the text that the template puts behind, or
    without the tokenizer's own space before them.

    Raises TemplateFailed and Unsplittable: what is wrong with them alone.
    """
    suffixes = dict.fromkeys(("", tokenizer.text_after_system()))
    failures = []
    for unspaced, suffix in product((False, True) if tokenizer.adds_space else (False,), suffixes):
        try:
            found = with_system(tokenizer, template, suffix, unspaced=unspaced)
            _check(tokenizer, found, "su")
        except Unsplittable as error:
            failures.append(error)
        else:
            return found
    raise failures[0]


def _unproven(tokenizer: TemplateTokenizer, template: TurnTemplate) -> Iterator[TurnForm]:
    for form, conversations in FORMS.items():
        try:
            for roles in conversations:
                if roles[0] != "s" or template.system_before is not None:
                    _check(tokenizer, template, roles)
        except Unsplittable:
            yield form


def _refused(template: TurnTemplate) -> Iterator[str]:
    if template.unproven:
        forms = ", ".join(form.replace("_", " ") for form in template.unproven)
        yield f"the chat template has no such turns, or other tokens for them than its parts make: {forms}; refused"


def _check(tokenizer: TemplateTokenizer, template: TurnTemplate, roles: str) -> None:
    """Compare every plain content in every turn, up to where a reply begins: some templates add more when a
    conversation ends elsewhere.
    """
    for first in range(len(PLAIN)):
        said = [(ROLES[role], PLAIN[(first + at) % len(PLAIN)]) for at, role in enumerate(roles)]
        if not _same(tokenizer, template, said):
            message = "the chat template's own rendering has other tokens than contents wrapped by its parts"
            raise Unsplittable(f"{message}, such as for {said[-1][1]!r}")


def _same(tokenizer: TemplateTokenizer, template: TurnTemplate, said: Said) -> bool:
    (first, content), *rest = said
    system, messages = (content, rest) if first == "system" else ("", said)
    try:
        whole = tokenizer.whole(said, generation=True)
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None
    return whole == tokenizer.wrapping(template).conversation(messages, system)


def _rewritten(tokenizer: TemplateTokenizer, template: TurnTemplate) -> Iterator[str]:
    """Warn of a template that renders earlier turns differently: in an engine, turns stay as they were."""
    said = [("user", PLAIN[0]), ("assistant", REASONING), ("user", PLAIN[1])]
    if template.earlier_before is not None:
        yield f"the chat template begins earlier replies otherwise than the one to come; {_STAYS}"
    with suppress(TemplateFailed):
        if REASONING not in tokenizer.template.render(said):
            yield f"the chat template rewrites earlier replies, such as their reasoning; {_STAYS}"


def _edges(tokenizer: TemplateTokenizer, template: TurnTemplate) -> Iterator[str]:
    """Warn of contents that give other tokens because the tokenizer joins characters across their border."""
    differ = [repr(text) for text in EDGE if not _same_at_edge(tokenizer, template, text)]
    if differ:
        yield (
            f"contents such as {', '.join(differ)} are tokenized apart from the chat template, "
            "and so to other tokens than in its own rendering"
        )


def _same_at_edge(tokenizer: TemplateTokenizer, template: TurnTemplate, text: str) -> bool:
    conversations: list[Said] = [
        [("user", text)],
        [("user", PLAIN[0]), ("assistant", text), ("user", PLAIN[1])],
    ]
    if text and template.system_before is not None:  # an empty system prompt is none
        conversations.append([("system", text), ("user", PLAIN[0])])
    try:
        return all(_same(tokenizer, template, said) for said in conversations)
    except Unsplittable:  # the template refuses such a content, so there is nothing to compare with
        return True
