"""Compares conversations wrapped by the parts of a turn template with the template's own renderings, in tokens.

What people mostly say has to come out the same, whatever the turn, or the parts are refused. Contents that begin or
end with white space, or are empty, may come out otherwise, since a tokenizer looks across the border; that is a
warning, for the tokens are still those of the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from builder_service.chat.chat_template import TemplateFailed
from builder_service.chat.turn_segments import ROLES, Said, Speech, TurnSegments, Unsplittable

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


def prove(speech: Speech, parts: TurnSegments) -> TurnSegments:
    """The parts with what is proven of them, and warnings for the rest.

    Raises Unsplittable where plain conversations do not come out as the template renders them. Where only those with
    a system prompt do not, there are no system prompts.
    """
    for roles in ("u", "uau", "uauau"):
        _check(speech, parts, roles)
    if parts.template.system_before is not None:
        parts = _with_system(speech, parts)
    found = (*_rewritten(speech, parts), *_edges(speech, parts))
    return replace(parts, warnings=(*parts.warnings, *found))


def _with_system(speech: Speech, parts: TurnSegments) -> TurnSegments:
    try:
        for roles in ("su", "suau"):
            _check(speech, parts, roles)
    except Unsplittable as error:
        template = parts.template.model_copy(update={"system_before": None, "system_after": ()})
        return replace(parts, template=template, warnings=(*parts.warnings, f"no system prompts: {error}"))
    return parts


def _check(speech: Speech, parts: TurnSegments, roles: str) -> None:
    """Every plain content in every place, up to where a reply begins: some templates end elsewhere with more."""
    for first in range(len(PLAIN)):
        said = [(ROLES[role], PLAIN[(first + at) % len(PLAIN)]) for at, role in enumerate(roles)]
        if not _same(speech, parts, said):
            message = "the chat template's own rendering has other tokens than contents wrapped by its parts"
            raise Unsplittable(f"{message}, such as for {said[-1][1]!r}")


def _same(speech: Speech, parts: TurnSegments, said: Said) -> bool:
    try:
        return speech.whole(said, generation=True) == parts.wrapped(speech, said)
    except TemplateFailed as error:
        raise Unsplittable(f"the chat template refuses a conversation: {error}") from None


def _rewritten(speech: Speech, parts: TurnSegments) -> Iterator[str]:
    """Templates that show a turn otherwise once it is history: here turns stay as they were said."""
    said = [("user", PLAIN[0]), ("assistant", REASONING), ("user", PLAIN[1])]
    stays = "here earlier turns stay as they were"
    if parts.earlier_before != parts.template.assistant_before:
        yield f"the chat template begins earlier replies otherwise than the one to come; {stays}"
    with suppress(TemplateFailed):
        if REASONING not in speech.template.render(said):
            yield f"the chat template rewrites earlier replies, such as their reasoning; {stays}"


def _edges(speech: Speech, parts: TurnSegments) -> Iterator[str]:
    """Contents whose border a tokenizer looks across."""
    differ = [repr(text) for text in EDGE if not _same_at_edge(speech, parts, text)]
    if differ:
        yield (
            f"contents such as {', '.join(differ)} are tokenized apart from the chat template, "
            "and so to other tokens than in its own rendering"
        )


def _same_at_edge(speech: Speech, parts: TurnSegments, text: str) -> bool:
    conversations: list[Said] = [
        [("user", text)],
        [("user", PLAIN[0]), ("assistant", text), ("user", PLAIN[1])],
    ]
    if parts.template.system_before is not None:
        conversations.append([("system", text), ("user", PLAIN[0])])
    try:
        return all(_same(speech, parts, said) for said in conversations)
    except Unsplittable:  # the template refuses such a content, so there is nothing to compare with
        return True
