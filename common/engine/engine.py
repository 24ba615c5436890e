"""The interface of everything that executes an engine: a batch goes in, logits after the wanted tokens come out.

An engine holds `geometry.slots` slots of keys and values and knows nothing of sessions: the caller of `step` keeps the
position of every slot in use and passes it each time. Calls come from one thread at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.window import Geometry, SessionWindow

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Feed:
    """Tokens for one slot in one step: `tokens` go to positions `position`, `position + 1`, ...

    An idle slot has no tokens; it is named so that the step's padding is written where it does no harm.
    The tokens' rows follow one another: at most `linear_run(geometry, window.sinks, position)` tokens, in a step of one
    slot with `Engine.longest_step(position)`.
    Logits are `wanted` after that many of the last tokens: after more than one, see `Engine.draft_rows`.
    """

    slot: int
    position: int
    window: SessionWindow
    tokens: tuple[int, ...] = ()
    wanted: int = 1


@dataclass(frozen=True)
class SlotState:
    """The rows of one slot that its session can still see, oldest position first within sinks and ring.

    Bound to the position that it was exported at, and to the geometry but for its number of slots. Numbers are as the
    engine keeps them: float32, float16, uint16 with the bits of a bfloat16, or int8 with their scales (`packed_rows`).
    """

    position: int
    window: SessionWindow
    geometry: Geometry
    keys: npt.NDArray[Any]  # [layer, kv_head, row, dim]
    values: npt.NDArray[Any]  # [layer, kv_head, row, dim]

    @property
    def size_bytes(self) -> int:
        """Host memory that the state takes."""
        return int(self.keys.nbytes + self.values.nbytes)

    def check_fits(self, geometry: Geometry, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Raise ValueError unless a slot of `geometry` has room for exactly this, as arrays of `shape` and `dtype`."""
        found = {(array.shape, array.dtype) for array in (self.keys, self.values)}
        if replace(self.geometry, slots=geometry.slots) != geometry or found != {(shape, np.dtype(dtype))}:
            raise ValueError(f"state of {self.geometry} with {found} does not fit {geometry}: {shape}, {dtype}")


class Engine(Protocol):
    """Life: made with all slots zeroed; `clear` before a slot is given to a session; `close` frees everything."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def slot_multiple(self) -> int:
        """A batch starts at a slot that is a multiple of this: 1, but where memory has to be aligned."""

    @property
    def draft_rows(self) -> int:
        """Most rows of a step that checks drafts: slots of the batch times the longest feed. 0: it checks none.

        In such a step logits are wanted after more than one token of a feed.
        """

    def longest_step(self, position: int) -> int:
        """Most tokens at `position` of a step that feeds one slot alone, at least a chunk; see `linear_run`."""

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        """Feed every slot its tokens and return the logits after its last ones.

        `feeds` names every slot in use, each once. Slots from the lowest (see `slot_multiple`) to the highest that
        have tokens take part in the batch. Positions do not advance by this: a caller that does not advance takes
        tokens back.

        Returns [wanted tokens of all feeds that have any, vocabulary], in the order of `feeds` and of tokens; rows
        may be non-finite, and then only that session is poisoned: clear its slot.
        """

    def clear(self, slot: int) -> None:
        """Zero the rows of `slot`."""

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        """Copy what a session at `position` can still see."""

    def import_slot(self, slot: int, state: SlotState) -> None:
        """Clear `slot` and put `state` where it was; raises ValueError for another geometry."""

    def close(self) -> None:
        """Free the engine; no call may follow."""


def check_tokens(feeds: tuple[Feed, ...], vocabulary_size: int) -> None:
    """Raise ValueError for a token that the model does not have."""
    for feed in feeds:
        if feed.tokens and not 0 <= min(feed.tokens) <= max(feed.tokens) < vocabulary_size:
            raise ValueError(f"slot {feed.slot}: token ids run from 0 to {vocabulary_size - 1}: {feed.tokens}")
