"""Compares conversations wrapped by the parts of a turn template with the template's own renderings, in tokens.

Ordinary contents must give the same tokens in every turn; otherwise the parts are refused. Contents that are empty, or
begin or end with white space, may give other tokens, because a tokenizer may join characters on both sides of the
border. That is only a warning: the text is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from builder_service.chat.chat_template import TemplateFailed
from builder_service.chat.turn_segments import ROLES, Said, TemplateTokenizer, TurnSegments, Unsplittable

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
REASONING = "<think>\nLet me see.\n</think>\n\nYes."


def prove(tokenizer: TemplateTokenizer, parts: TurnSegments) -> TurnSegments:
    """The parts, reduced to what is proven, with warnings for the rest.

    Raises Unsplittable if ordinary conversations give other tokens than the template's rendering. If only conversations
    with a system prompt do, the result has no system prompts.
    """
    for roles in ("u", "uau", "uauau"):
        _check(tokenizer, parts, roles)
    if parts.template.system_before is not None:
        parts = _with_system(tokenizer, parts)
    found = (*_rewritten(tokenizer, parts), *_edges(tokenizer, parts))
    return replace(parts, warnings=(*parts.warnings, *found))


def _with_system(tokenizer: TemplateTokenizer, parts: TurnSegments) -> TurnSegments:
    try:
        for roles in ("su", "suau"):
            _check(tokenizer, parts, roles)
    except Unsplittable as error:
        template = parts.template.model_copy(update={"system_before": None, "system_after": ()})
        return replace(parts, template=template, warnings=(*parts.warnings, f"no system prompts: {error}"))
    return parts


def _check(tokenizer: TemplateTokenizer, parts: TurnSegments, roles: str) -> None:
    """Compare every plain content in every turn, up to where a reply begins: some templates add more when a
    conversation ends elsewhere.
    """
    for first in range(len(PLAIN)):
        said = [(ROLES[role], PLAIN[(first + at) % len(PLAIN)]) for at, role in enumerate(roles)]
        if not _same(tokenizer, parts, said):
            message = "the chat template's own rendering has other tokens than contents wrapped by its parts"
            raise Unsplittable(f"{message}, such as for {said[-1][1]!r}")


def _same(tokenizer: TemplateTokenizer, parts: TurnSegments, said: Said) -> bool:
    try:
        return tokenizer.whole(said, generation=True) == parts.wrapped(tokenizer, said)
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None


def _rewritten(tokenizer: TemplateTokenizer, parts: TurnSegments) -> Iterator[str]:
    """Warn of a template that renders earlier turns differently: in an engine, turns stay as they were."""
    said = [("user", PLAIN[0]), ("assistant", REASONING), ("user", PLAIN[1])]
    stays = "here earlier turns stay as they were"
    if parts.earlier_before != parts.template.assistant_before:
        yield f"the chat template begins earlier replies otherwise than the one to come; {stays}"
    with suppress(TemplateFailed):
        if REASONING not in tokenizer.template.render(said):
            yield f"the chat template rewrites earlier replies, such as their reasoning; {stays}"


def _edges(tokenizer: TemplateTokenizer, parts: TurnSegments) -> Iterator[str]:
    """Warn of contents that give other tokens because the tokenizer joins characters across their border."""
    differ = [repr(text) for text in EDGE if not _same_at_edge(tokenizer, parts, text)]
    if differ:
        yield (
            f"contents such as {', '.join(differ)} are tokenized apart from the chat template, "
            "and so to other tokens than in its own rendering"
        )


def _same_at_edge(tokenizer: TemplateTokenizer, parts: TurnSegments, text: str) -> bool:
    conversations: list[Said] = [
        [("user", text)],
        [("user", PLAIN[0]), ("assistant", text), ("user", PLAIN[1])],
    ]
    if parts.template.system_before is not None:
        conversations.append([("system", text), ("user", PLAIN[0])])
    try:
        return all(_same(tokenizer, parts, said) for said in conversations)
    except Unsplittable:  # the template refuses such a content, so there is nothing to compare with
        return True
