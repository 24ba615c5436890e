"""A blob that is not all there yet, in a file beside its own, which a later run goes on with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from common.artifact.errors import NotAnEngine
from common.digest import Hasher, chunks


class Arriving:
    """Reads what an earlier run has left, if any. Raises OSError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f"{path.name}.part")
        self._hasher = Hasher()

    def __enter__(self) -> Self:
        self._file = self._aside.open("a+b")
        self._file.seek(0)
        for data in chunks(self._file):
            self._hasher.update(data)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def size_bytes(self) -> int:
        """How much is there."""
        return self._hasher.size_bytes

    def restart(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._hasher = Hasher()

    def take(self, pieces: Iterable[bytes], digest: str, most_bytes: int) -> None:
        """Add what comes; raises NotAnEngine for more than there should be."""
        for data in pieces:
            if self.size_bytes + len(data) > most_bytes:
                self.restart()
                raise NotAnEngine(f"{digest} is longer than the {most_bytes} bytes that its manifest says")
            self._file.write(data)
            self._hasher.update(data)

    def finish(self, digest: str) -> None:
        """Give it its name. Raises NotAnEngine, and forgets it, if it is not what its digest says."""
        self._file.flush()
        if self._hasher.digest != digest:
            self._aside.unlink()
            raise NotAnEngine(f"{digest} came with digest {self._hasher.digest}")
        self._aside.rename(self._path)
