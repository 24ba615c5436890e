"""The newest turns that have a word, as one text: eight hexadecimal digits a turn, the newest first.

So a turn is put in front, and the oldest cut off, in a statement that both databases know.
"""

from __future__ import annotations

import struct

DEPTH = 64
"""Of each word, so many of the newest turns are kept."""
WIDTH = 8


def packed(number: int) -> str:
    """A turn alone."""
    return f"{number:0{WIDTH}x}"


def unpacked(text: str) -> tuple[int, ...]:
    """Numbers of turns, the newest first."""
    return struct.unpack(f">{len(text) // WIDTH}I", bytes.fromhex(text))
