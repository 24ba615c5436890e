"""Which tokens may come next in each reply with a form, found in a thread beside the step of the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens

from runtime_service.decoding.sampling import Tokens
from runtime_service.forms.matcher import Matcher

Bits = npt.NDArray[np.int32]
Allowed = Mapping[int, list[Tokens]]
"""By slot: ids that may come next, and after each token of the draft."""
MOST_THREADS = 4


@dataclass(frozen=True)
class Wanted:
    """A reply with a form, and what is fed of it on trial; every token of that fits."""

    matcher: Matcher
    draft: tuple[int, ...]


class Masks:
    """Masks of one engine. The scheduler's thread calls; any may read the counts."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None  # once a reply has a form
        self._executor: LLExecutor | None = None
        self.steps = 0
        """Steps that had masks."""
        self.seconds = 0.0
        """Time that it took to find them."""
        self.waited_s = 0.0
        """Time of it that a step had to wait, when the engine was done."""

    def begin(self, wanted: Mapping[int, Wanted]) -> PendingMasks:
        """Begin to find the masks of a step, by slot."""
        if not wanted:
            return PendingMasks(self, None)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "masks")
            self._executor = LLExecutor(max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)))
        return PendingMasks(self, self._thread.submit(partial(self._find, wanted)))

    def _find(self, wanted: Mapping[int, Wanted]) -> Allowed:
        began = time.perf_counter()
        rows = [1 + len(each.draft) for each in wanted.values()]
        starts = np.cumsum([0, *rows])
        one = next(iter(wanted.values())).matcher
        bits = np.zeros((int(starts[-1]), one.mask_words), np.int32)
        self._fill(wanted, starts, bits)
        found = [_ids(row, one.vocabulary) for row in bits]
        self.steps += 1
        self.seconds += time.perf_counter() - began
        return {slot: found[start : start + n] for slot, start, n in zip(wanted, starts, rows, strict=False)}

    def _fill(self, wanted: Mapping[int, Wanted], starts: npt.NDArray[np.int64], bits: Bits) -> None:
        assert self._executor is not None
        placed = [(each, int(start)) for each, start in zip(wanted.values(), starts, strict=False)]
        if single := [(each.matcher.state, start) for each, start in placed if not each.draft]:
            fill_next_token_bitmask_par(self._executor, single, bits)
        if drafted := [(each.matcher.state, start, list(each.draft)) for each, start in placed if each.draft]:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, bits)


class PendingMasks:
    """Masks that are being found."""

    def __init__(self, masks: Masks, future: Future[Allowed] | None) -> None:
        self._masks = masks
        self._future = future

    def wait(self) -> Allowed:
        """Wait until they are found."""
        if self._future is None:
            return {}
        began = time.perf_counter()
        found = self._future.result()
        self._masks.waited_s += time.perf_counter() - began
        return found


def _ids(bits: Bits, vocabulary: int) -> Tokens:
    """Ids whose bit is set, in order."""
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[:vocabulary].view(np.bool_))
