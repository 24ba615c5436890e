"""What the machine has left for a build, what a process has taken of it, and whether its kernel killed for it."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from builder_service.machine.cgroup import ControlGroup, field, own_groups

_PROC = Path("/proc")
_RLIMITS = ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize"))
"""Limits of a process, and the line of its status that counts against each."""


def free_memory_bytes(groups: Sequence[ControlGroup] | None = None) -> int:
    """Memory that this process may take in all: of the machine, of its control groups, below its own limits."""
    room = [group.free_bytes for group in (own_groups() if groups is None else groups)]
    resident = _status("self", "VmRSS")
    room += [min(limit, max(0, limit - _status("self", counted) + resident)) for limit, counted in _rlimits()]
    return min([int(psutil.virtual_memory().available), *(size for size in room if size is not None)])


def memory_limit_bytes(groups: Sequence[ControlGroup] | None = None) -> int:
    """The least of the limits that hold for this process: its own, of its control groups, all that the machine has."""
    of_groups = [group.limit_bytes for group in (own_groups() if groups is None else groups)]
    limits = [*(limit for limit, _ in _rlimits()), *(limit for limit in of_groups if limit is not None)]
    return min([int(psutil.virtual_memory().total), *limits])


def limit_memory(size_bytes: int) -> None:
    """From now on this process may have so much memory of its own; what it asks for beyond that it is refused."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    least = size_bytes if most == resource.RLIM_INFINITY else min(size_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, most))


def peak_memory_bytes(process: int | str = "self") -> int:
    """The most memory that a process has had at a time; 0 for one that has ended."""
    return _status(process, "VmHWM")


def free_disk_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


def out_of_memory_kills(groups: Sequence[ControlGroup] | None = None, vmstat: Path = _PROC / "vmstat") -> int:
    """Processes that the kernel has killed for want of memory, here or on the machine; only its rise says anything."""
    of_groups = [group.kills for group in (own_groups() if groups is None else groups)]
    return sum(of_groups) + field(vmstat, "oom_kill")


def _rlimits() -> list[tuple[int, str]]:
    limits = [(resource.getrlimit(kind)[0], counted) for kind, counted in _RLIMITS]
    return [(limit, counted) for limit, counted in limits if limit != resource.RLIM_INFINITY]


def _status(process: int | str, name: str) -> int:
    """Bytes of a line of /proc/PID/status, which counts in KiB; 0 where there is none."""
    return field(_PROC / str(process) / "status", f"{name}:") * 1024
