"""Memory and disk that are free for a build, memory that a process has used, and kills by the kernel when it ran
out.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from builder_service.machine.cgroup import ControlGroup, field, own_groups

_PROC = Path("/proc")
_RLIMITS = ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize"))
"""Each limit of a process, and the line of /proc/PID/status that counts against it."""


def free_memory_bytes(groups: Sequence[ControlGroup] | None = None) -> int:
    """Memory that this process can still take: the least of what the machine, its control groups and its own limits
    leave.
    """
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
    """Limit this process's own memory from now on; allocations beyond it fail."""
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
    """Number of processes that the kernel has killed because memory ran out, in these groups or on the machine.

    Only a rise of it means something.
    """
    of_groups = [group.kills for group in (own_groups() if groups is None else groups)]
    return sum(of_groups) + field(vmstat, "oom_kill")


def _rlimits() -> list[tuple[int, str]]:
    limits = [(resource.getrlimit(kind)[0], counted) for kind, counted in _RLIMITS]
    return [(limit, counted) for limit, counted in limits if limit != resource.RLIM_INFINITY]


def _status(process: int | str, name: str) -> int:
    """Bytes of a line of /proc/PID/status, which counts in KiB; 0 where there is none."""
    return field(_PROC / str(process) / "status", f"{name}:") * 1024
