"""Ends a wait for a client that hangs: it may take as long as it likes, while there is progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_LOOKS = 20
T = TypeVar("T")


class StalledError(Exception):
    """Nothing has come for too long."""


def unless_it_stalls(act: Callable[[], T], progress: Callable[[], object], patience_s: float) -> T:
    """What `act` returns or raises; raises StalledError once `progress` has said the same for `patience_s`.

    `act` runs in a thread of its own, which nobody can end: it lasts as long as its process.
    """
    answer: Future[T] = Future()
    threading.Thread(target=_run, args=(act, answer), name="fetch", daemon=True).start()
    seen, looks = progress(), 0
    while looks < _LOOKS:
        try:
            return answer.result(patience_s / _LOOKS)
        except TimeoutError:
            if answer.done():  # it is what `act` raised
                raise
        looks = looks + 1 if (now := progress()) == seen else 0
        seen = now
    raise StalledError(f"nothing has come for {patience_s:g} s")


def _run(act: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(act())
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        answer.set_exception(error)
