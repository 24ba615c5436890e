"""The control group (version 1 or 2) that limits this process's memory, and the groups around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60
"""Version 1 writes 'no limit' as a number larger than any machine's memory."""


@dataclass(frozen=True)
class ControlGroup:
    """The files of a memory group: of version 1 if `legacy`, else of version 2."""

    folder: Path
    legacy: bool = False

    @property
    def limit_bytes(self) -> int | None:
        """Most memory that its processes may take together; None: no limit of its own."""
        limit = self._number("memory.limit_in_bytes" if self.legacy else "memory.max")
        return limit if limit is not None and limit < _NO_LIMIT else None

    @property
    def free_bytes(self) -> int | None:
        """What is left below the limit; None if there is no limit.

        Page cache counts as free: the kernel drops it when memory is needed.
        """
        limit, used = self.limit_bytes, self._number("memory.usage_in_bytes" if self.legacy else "memory.current")
        if limit is None or used is None:
            return None
        cached = field(self.folder / "memory.stat", "total_inactive_file" if self.legacy else "inactive_file")
        return max(0, limit - used + cached)

    @property
    def kills(self) -> int:
        """Number of its processes that the kernel has killed because memory ran out."""
        return field(self.folder / ("memory.oom_control" if self.legacy else "memory.events"), "oom_kill")

    def _number(self, name: str) -> int | None:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return None


def own_groups(membership: Path = MEMBERSHIP, root: Path = ROOT) -> tuple[ControlGroup, ...]:
    """The memory groups of this process, the innermost first; none where the system has none.

    Source: https://man7.org/linux/man-pages/man7/cgroups.7.html, "/proc files".
    """
    return tuple(group for group in _groups(membership, root) if group.folder.is_dir())


def field(path: Path, name: str) -> int:
    """Value of a line NAME VALUE; 0 where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def _groups(membership: Path, root: Path) -> Iterator[ControlGroup]:
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            legacy = bool(controllers)
            yield from (ControlGroup(folder, legacy) for folder in _upwards(root / controllers, path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Folders from that of a group up to the root; a container may see the root alone, under another name."""
    parts = [part for part in path.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])
