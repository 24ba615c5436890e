"""How a measurement reports progress, without knowing how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Advance = Callable[[int], None]
"""Called with the number of parts that were done since the last call."""
Track = Callable[[str, int], AbstractContextManager[Advance]]
"""Starts a piece of work: its name, and its number of parts."""
