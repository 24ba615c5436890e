"""Blocks of precision int4, the same choice for every target."""

from __future__ import annotations

from typing import Final, Literal

INT4_BLOCK: Final = 32
"""Inputs that share a scale in int4, unless the spec says otherwise."""
Int4Block = Literal[32, 64, 128]
