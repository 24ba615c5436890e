"""Text of other people made fit for a terminal: it can be read, and controls nothing.

A terminal obeys C0 and C1 control characters, and turns the direction of text at bidirectional ones, so that a name may
clear the screen, or look like another.
"""

from __future__ import annotations

from collections.abc import Mapping

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
