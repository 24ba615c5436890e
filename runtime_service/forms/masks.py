"""Which tokens may come next in each reply with a form, found in threads beside the step of the engine.

Each reply has a job of its own, so that a form whose masks take long keeps no other reply waiting. Such a form has its
next masks from a few threads that only such forms use: the engine and the others need the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par_with_draft_tokens

from runtime_service.decoding.sampling import Tokens
from runtime_service.forms.matcher import Matcher

Bits = npt.NDArray[np.int32]
MOST_AT_ONCE = 64
MOST_SLOW = 2
SLOW_S = 0.02
"""A mask that took longer makes its form a slow one, until one takes less."""
_EXECUTOR = LLExecutor(1)  # for its function: of a single reply, it computes in the thread that asks


@dataclass(frozen=True)
class Wanted:
    """A reply with a form, and what is fed of it on trial; every token of that fits."""

    matcher: Matcher
    draft: tuple[int, ...]


def find(wanted: Wanted) -> list[Tokens]:
    """Ids that may come next, and after each token of the draft."""
    bits = np.zeros((1 + len(wanted.draft), wanted.matcher.mask_words), np.int32)
    state = wanted.matcher.state
    if wanted.draft:
        fill_next_token_bitmask_par_with_draft_tokens(_EXECUTOR, [(state, 0, list(wanted.draft))], bits)
    else:
        fill_next_token_bitmask(state, bits)
    return [_ids(row, wanted.matcher.vocabulary) for row in bits]


class Masks:
    """Masks of one engine. The scheduler's thread calls; any may read the counts."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        find_ids: Callable[[Wanted], list[Tokens]] = find,
    ) -> None:
        self._clock = clock
        self._find = find_ids
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, "masks")  # a thread begins when a reply needs one
        self._slow_threads = ThreadPoolExecutor(MOST_SLOW, "slow-masks")
        self.steps = 0
        """Steps that had masks."""
        self.late = 0
        """Masks that a step did not wait for."""
        self.seconds = 0.0
        """Time that it took to find those that were used."""
        self.waited_s = 0.0
        """Time of it that a step had to wait, when the engine was done."""

    def begin(self, wanted: Wanted) -> PendingMask:
        """Begin to find the masks of one reply; its matcher is not to be touched until they are there."""
        mask = PendingMask(wanted, self, self._clock())
        threads = self._slow_threads if wanted.matcher.is_slow else self._threads
        mask.future = threads.submit(self._found, mask)
        return mask

    def wait(self, masks: Collection[PendingMask], seconds: float) -> None:
        """Wait until these are found, at most so long; those of slow forms are not waited for."""
        if not masks:
            return
        began = time.perf_counter()
        awaited = [mask.future for mask in masks if not (mask.is_done or mask.wanted.matcher.is_slow)]
        if awaited:
            wait_for(awaited, seconds)
        self.steps += 1
        self.late += sum(not mask.is_done for mask in masks)
        self.waited_s += time.perf_counter() - began

    def _found(self, mask: PendingMask) -> list[Tokens]:
        mask.began_at = self._clock()
        began = time.perf_counter()
        found = self._find(mask.wanted)
        mask.seconds = time.perf_counter() - began
        return found


class PendingMask:
    """What may come next in a reply, and after each token of its draft, which is being found."""

    future: Future[list[Tokens]]

    def __init__(self, wanted: Wanted, masks: Masks, asked_at: float) -> None:
        self.wanted = wanted
        self.asked_at = asked_at
        self.began_at: float | None = None
        """By the clock of the masks; None while it waits for a thread."""
        self.seconds = 0.0
        """What it took, once it is found."""
        self._masks = masks

    @property
    def is_done(self) -> bool:
        """Whether `take` need not wait, and the matcher may be touched."""
        return self.future.done()

    def take(self) -> list[Tokens]:
        """The ids, once; waits for them."""
        found = self.future.result()
        self._masks.seconds += self.seconds
        self.wanted.matcher.is_slow = self.seconds > SLOW_S
        return found


def _ids(bits: Bits, vocabulary: int) -> Tokens:
    """Ids whose bit is set, in order."""
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[:vocabulary].view(np.bool_))
