"""What the machine has left for a build, and whether its kernel killed for want of memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")


def free_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that a new process may take: of the machine, or of the control group if that is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is None or used is None:
        return free
    # Page cache counts as used and goes when memory is wanted.
    cached = _field(cgroup / "memory.stat", "inactive_file")
    return min(free, max(0, limit - used + cached))


def free_disk_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


def out_of_memory_kills(cgroup: Path = _CGROUP, vmstat: Path = _VMSTAT) -> int:
    """Processes that the kernel has killed for want of memory, here or on the machine; only its rise says anything."""
    return _field(cgroup / "memory.events", "oom_kill") + _field(vmstat, "oom_kill")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int:
    """Value of a line NAME VALUE; 0 where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
