"""The forms of one engine: refuses what cannot be, and has a matcher for each reply that asks for one.

To make a matcher can take long, so it is done in threads, with a deadline; what may never end is tried out before, in
a process that can be stopped. It is made once, whoever asks meanwhile, kept, and copied for the next reply; so is why
one was refused, for a while: a session whose tools have no form asks again in every turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from llguidance import LLMatcher, LLTokenizer

from common.errors import InvalidArgument, Reason, ResourceExhausted
from common.spec.manifest import Manifest
from common.text.vocabulary import Vocabulary
from runtime_service.domain.response_format import refused
from runtime_service.forms.form import Form, behind_spaces
from runtime_service.forms.matcher import Matcher, said
from runtime_service.forms.tokenizer import make_tokenizer, special_texts
from runtime_service.forms.trial import LIMITS, too_slow, try_out

MOST_KEPT = 64
REFUSED_S = 600.0
"""How long a refusal is kept: what took too long may do better on a machine that is less busy."""
DEADLINE_S = 5.0
T = TypeVar("T")
_MAKERS = ThreadPoolExecutor(2, "forms")  # a few for the whole process: what is made is somebody else's text


class EngineForms:
    """Belongs to the event loop. The tokenizer is made when the first reply asks for a form."""

    def __init__(self, vocabulary: Vocabulary, manifest: Manifest, control: frozenset[int] = frozenset()) -> None:
        """`control` are tokens that fit only where a form names them, such as the one that ends a call: in a string of
        its arguments it would end it.
        """
        self._vocabulary = vocabulary
        self._control = control
        self._size = manifest.architecture.vocabulary
        self._ends = tuple(dict.fromkeys(manifest.end_token_ids))
        self._tokenizer: asyncio.Future[LLTokenizer] | None = None
        self._kept: OrderedDict[Form, LLMatcher] = OrderedDict()
        self._making: dict[Form, asyncio.Task[LLMatcher]] = {}
        self._refused: OrderedDict[Form, tuple[float, InvalidArgument]] = OrderedDict()  # and until when

    async def matcher(self, form: Form) -> Matcher:
        """A matcher at the beginning of a reply.

        Raises InvalidArgument (INVALID_FIELD) with what llguidance says, and for a form that takes too long;
        ResourceExhausted (CAPACITY_EXHAUSTED) while others do.
        """
        until, error = self._refused.get(form, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error.with_traceback(None)
        state = self._kept.get(form)
        if state is None:
            state = await asyncio.shield(self._being_made(form))
        _keep(self._kept, form, state)
        return Matcher(state.deep_copy(), form.field, self._size, self._ends)

    def _being_made(self, form: Form) -> asyncio.Task[LLMatcher]:
        if form not in self._making:
            self._making[form] = making = asyncio.create_task(self._made_or_refused(form))
            making.add_done_callback(lambda _: self._making.pop(form))
            making.add_done_callback(_retrieved)
        return self._making[form]

    async def _made_or_refused(self, form: Form) -> LLMatcher:
        try:
            return await self._make(form)
        except InvalidArgument as error:
            _keep(self._refused, form, (time.monotonic() + REFUSED_S, error))
            raise

    async def _make(self, form: Form) -> LLMatcher:
        """As long as it waits for a thread, nothing is said of the form."""
        deadline, began, tokenizer = DEADLINE_S, asyncio.Event(), await self._made_tokenizer()
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, began.set)
        work: Future[LLMatcher] = _MAKERS.submit(_told, tell, partial(self._made, tokenizer, form))
        made = asyncio.wrap_future(work)
        made.add_done_callback(_retrieved)
        with suppress(TimeoutError):
            await asyncio.wait_for(began.wait(), deadline)
        if work.cancel():
            what = "forms of other replies are being prepared, which takes long"
            raise ResourceExhausted(Reason.CAPACITY_EXHAUSTED, what, retry_after_s=1.0)
        await asyncio.wait([made], timeout=deadline)
        if made.done():
            return made.result()
        raise too_slow(form.field, deadline)

    def _made(self, tokenizer: LLTokenizer, form: Form) -> LLMatcher:
        """A matcher that has found a first mask: some forms show only then that nothing satisfies them.

        Behind spaces or a thought, which always fit, they would not show it, so they are made without them as well.
        """
        spaces, bare = self._vocabulary.leading_spaces, replace(form, thought="")
        if form.is_risky:
            special = special_texts(self._vocabulary, self._size, self._control)
            try_out(behind_spaces(form, spaces), form.field, DEADLINE_S, self._size, special)
        state = _begun(tokenizer, bare, 0)
        return _begun(tokenizer, form, spaces) if spaces or form.thought else state

    async def _made_tokenizer(self) -> LLTokenizer:
        """Made once, whoever asks meanwhile."""
        if self._tokenizer is None:
            make = partial(make_tokenizer, self._vocabulary, self._size, self._ends, self._control)
            self._tokenizer = asyncio.ensure_future(asyncio.to_thread(make))
        return await asyncio.shield(self._tokenizer)


def _told(begins: Callable[[], object], work: Callable[[], T]) -> T:
    begins()
    return work()


def _retrieved(made: asyncio.Future[LLMatcher]) -> None:
    """Whoever asked may have left."""
    if not made.cancelled():
        made.exception()


def _keep(kept: OrderedDict[Form, T], form: Form, made: T) -> None:
    """Keep what came of a form, in place of the oldest."""
    kept[form] = made
    kept.move_to_end(form)
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)


def _begun(tokenizer: LLTokenizer, form: Form, leading_spaces: int) -> LLMatcher:
    grammar = behind_spaces(form, leading_spaces)
    state = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    allowed = 0 if state.is_error() else int.from_bytes(state.compute_bitmask(), "little")
    if state.is_error():
        raise refused(form.field, f"is refused: {said(state.get_error())}")
    if not allowed & ~sum(1 << end for end in tokenizer.eos_tokens):
        raise refused(form.field, "allows no text")
    return state
