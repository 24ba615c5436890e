"""Cuts renderings of a chat template into forms: control tokens, text, and slots where what is said stood."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from builder_service.chat.turn_segments import Rendering, Unsplittable
from common.spec.chat.tool_template import Form, FormPart, Slot


def form_of(rendering: Rendering, span: tuple[int, int], control: Collection[int], slots: Mapping[str, Slot]) -> Form:
    """The form of the tokens from `span[0]` to before `span[1]`; `slots` are what was said, and what it was.

    Raises Unsplittable where a control token is inside of what was said.
    """
    start, end = span
    parts, at = list[FormPart](), text_start(rendering, start)
    for index in range(start, end):
        if rendering.ids[index] in control:
            begin, after = rendering.offsets[index]
            parts += [*_slotted(rendering.text[at:begin], slots), FormPart(tokens=(rendering.ids[index],))]
            at = after
    parts += _slotted(rendering.text[at : text_start(rendering, end)], slots)
    found = sorted(part.slot for part in parts if part.slot is not None)
    if found != sorted(slots.values()):
        raise Unsplittable("the chat template changes what is said of tools, or says it in another order each time")
    return tuple(parts)


def text_start(rendering: Rendering, index: int) -> int:
    """Where the token of an index begins in the text; its end, for the index behind the last."""
    return rendering.offsets[index][0] if index < len(rendering.offsets) else len(rendering.text)


def token_at(rendering: Rendering, position: int) -> int:
    """Index of the first token that reaches beyond a position of the text."""
    ends = enumerate(end for _, end in rendering.offsets)
    return next((index for index, end in ends if end > position), len(rendering.ids))


def _slotted(text: str, slots: Mapping[str, Slot]) -> Iterator[FormPart]:
    pattern = "|".join(re.escape(said) for said in sorted(slots, key=len, reverse=True))
    for piece in re.split(f"({pattern})", text) if slots else [text]:
        if piece in slots:
            yield FormPart(slot=slots[piece])
        elif piece:
            yield FormPart(text=piece)


def slot_span(form: Form) -> tuple[int, int]:
    """From the first slot of a form to behind its last."""
    places = [index for index, part in enumerate(form) if part.slot is not None]
    return places[0], places[-1] + 1
