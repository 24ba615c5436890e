"""Who does something: a name for this process, and whether the process of a name is alive.

A process of another machine counts as alive: nobody here can tell. One that has ended is dead although its parent has
not asked how it ended (a zombie): that may be long after. psutil tells the start of a process by the wall clock, which
may be set while it runs; what is in /proc never changes.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

_ENDED = ("Z", "X")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """HOST/PID/START of this process."""
    return f"{platform.node()}/{os.getpid()}/{_start_of(os.getpid())}"


def is_alive(name: str) -> bool:
    """Whether the process of a name still runs, as far as can be told from here."""
    host, process, started = name.rsplit("/", 2)
    return host != platform.node() or started == _start_of(int(process))


def _start_of(process: int) -> str:
    """Boot and clock tick at which a process started, since its number is used again; empty if none of it runs."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return ""
    # Fields 3, 20 and 22 of proc_pid_stat(5); the first two, of which the second may hold blanks, are cut off.
    state, threads, started = (values := fields.split())[0], int(values[17]), values[19]
    if state in _ENDED and threads <= 1:  # with more, only the first thread has ended
        return ""
    return f"{_BOOT_ID.read_text().strip()}:{started}"
