"""The newest turns that have a word, as one text: eight hexadecimal digits a turn, the newest first.

So a turn is put in front, and the oldest cut off, in a statement that both databases know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEPTH = 64
"""Of each word, so many of the newest turns are kept."""
WIDTH = 8


def packed(*numbers: int) -> str:
    """Turns, given the newest first."""
    return "".join(f"{number:0{WIDTH}x}" for number in numbers)


def unpacked(text: str) -> NDArray[np.int64]:
    """Numbers of turns in the order of a text, or of several that follow one another."""
    return np.frombuffer(bytes.fromhex(text), ">u4").astype(np.int64)
