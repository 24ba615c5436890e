"""Control characters in text of other people: names may not have them, and what is printed shows them.

A terminal obeys C0 and C1 control characters, and turns the direction of text at bidirectional ones, so that a name may
clear the screen, or look like another. PostgreSQL takes no NUL.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import InvalidArgument, Reason

_KEPT = "\n\t"
_C0: Mapping[int, int | None] = {code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT} | {0x7F: 0x2421}
_C1: Mapping[int, int | None] = dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_BIDIRECTIONAL: Mapping[int, int | None] = dict.fromkeys(
    (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
CONTROLS: Mapping[int, int | None] = {**_C0, **_C1, **_BIDIRECTIONAL}
"""What stands for each control character: a picture such as ␛, � for C1, nothing for bidirectional ones."""


def harmless(text: str) -> str:
    """The text without control characters but line ends and tabs."""
    return text.translate(CONTROLS)


def check_name(text: str, field: str, most: int, least: int = 0) -> None:
    """Raise InvalidArgument (INVALID_FIELD) at `field` for what is no id, name or label.

    That is a text of `least` to `most` characters, none of them a control character: C0 (such as NUL or a line end),
    C1, a bidirectional one, a line separator.
    """
    shown = ascii(text[:100])
    if not least <= len(text) <= most:
        what = f"has {len(text)} characters; {least} to {most} are allowed"
    elif (found := next((char for char in text if ord(char) in _NOT_IN_NAMES), None)) is not None:
        what = f"is {shown}, with the control character {found!a}; ids, names and labels have none"
    else:
        return
    raise InvalidArgument(Reason.INVALID_FIELD, f"{field} {what}", field=field, value=shown)


def is_name(text: str) -> bool:
    """Whether the text has no control character."""
    return not any(ord(char) in _NOT_IN_NAMES for char in text)


_NOT_IN_NAMES = frozenset({*CONTROLS, *map(ord, _KEPT), 0x2028, 0x2029})
