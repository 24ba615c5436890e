"""How a measurement says how far it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Advance = Callable[[int], None]
"""Takes how many more of a piece of work's parts are done."""
Track = Callable[[str, int], AbstractContextManager[Advance]]
"""Begins a piece of work: its name, and its parts in all."""
