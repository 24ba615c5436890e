"""Caches on the local disk: the tier below host memory, for as long as this process lives.

`put` never waits for the disk: a thread of its own writes, and what waits for it is still found. The oldest file makes
room for others, and one that is taken back is gone.
"""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.engine.engine import SlotState
from common.private import make_private_folder
from runtime_service.storage.snapshot_format import from_bytes, to_bytes

log = structlog.get_logger()


MOST_UNWRITTEN_BYTES = 256 << 20
"""States that may wait for the disk; when it is slower than they come, caches are computed again instead."""


@dataclass
class _File:
    """`epoch` is that of the session when its cache was put here, or found to be still the same."""

    epoch: int
    position: int
    size_bytes: int
    unwritten: SlotState | None


class CacheFiles:
    """Files of at most `budget_bytes` in `folder`, which is this process's alone. Any thread may call."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget = budget_bytes
        self._files: OrderedDict[int, _File] = OrderedDict()  # by session key, the oldest first
        self._lock = threading.Lock()
        self.writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-files")

    @property
    def size_bytes(self) -> int:
        """What the files take, or will when they are written."""
        with self._lock:
            return sum(file.size_bytes for file in self._files.values())

    def put(self, session_key: int, epoch: int, engine_digest: str, state: SlotState) -> bool:
        """Keep a state; False: there is no room for it."""
        with self._lock:
            waiting = sum(file.size_bytes for file in self._files.values() if file.unwritten is not None)
            if state.size_bytes > self._budget or waiting + state.size_bytes > MOST_UNWRITTEN_BYTES:
                return False
            file = self._files[session_key] = _File(epoch, state.position, state.size_bytes, state)
            self._files.move_to_end(session_key)
            self._make_room()
        self.writer.submit(self._write, session_key, engine_digest, file)
        return True

    def claimed(self, session_key: int, epoch: int, position: int) -> bool:
        """Whether the cache of a session that was claimed now, and has `position` tokens, is here.

        Another owner in between may have changed the session. And a cache that is ahead of `position` holds a turn
        that was not written, which may end differently when it runs again.
        """
        with self._lock:
            file = self._files.get(session_key)
            if file is None:
                return False
            if file.epoch != epoch - 1 or file.position > position:
                self._forget(session_key)
                return False
            file.epoch = epoch
            return True

    def has(self, session_key: int) -> bool:
        """Whether the cache of a session is here."""
        with self._lock:
            return session_key in self._files

    def take(self, session_key: int, engine_digest: str) -> SlotState | None:
        """The state of a session, if there is one for this engine, which is not here any more then; reads a file."""
        with self._lock:
            file = self._files.get(session_key)
        if file is None:
            return None
        try:
            state = file.unwritten or from_bytes(engine_digest, self._path(session_key).read_bytes())
        except (OSError, ValueError) as error:
            log.warning("cache_file.unusable", file=str(self._path(session_key)), cause=str(error))
            state = None
        with self._lock:
            if self._files.get(session_key) is file:
                self._forget(session_key)
        return state

    def drop(self, session_key: int) -> None:
        """Forget a session."""
        with self._lock:
            self._forget(session_key)

    def close(self) -> None:
        """Remove all of it."""
        self.writer.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_room(self) -> None:
        while sum(file.size_bytes for file in self._files.values()) > self._budget:
            self._forget(next(iter(self._files)))

    def _forget(self, session_key: int) -> None:
        if self._files.pop(session_key, None) is not None:
            self._path(session_key).unlink(missing_ok=True)

    def _write(self, session_key: int, engine_digest: str, file: _File) -> None:
        assert file.unwritten is not None
        path = self._path(session_key)
        if self._files.get(session_key) is not file:
            return  # dropped, or replaced, meanwhile
        try:
            make_private_folder(self._folder)
            path.write_bytes(to_bytes(engine_digest, file.unwritten))
        except OSError as error:
            log.warning("cache_file.not_written", file=str(path), cause=str(error))
            self.drop(session_key)
            return
        with self._lock:
            file.unwritten = None
            if session_key not in self._files:
                path.unlink(missing_ok=True)

    def _path(self, session_key: int) -> Path:
        return self._folder / f"{session_key}.kv"
