"""The error of a build whose process ended without a last message."""

from __future__ import annotations

import signal

from builder_service.machine.memory import memory_limit_bytes
from builder_service.machine.out_of_memory import MemoryUse, out_of_memory, sounds_like
from builder_service.worker.child_process import ChildProcess
from common.errors import Internal, Reason, SinkServeError


def crash_error(status: int, child: ChildProcess, *, ran_out: bool) -> SinkServeError:
    """The cause, by exit status (negative: a signal); `ran_out`: the kernel has killed processes meanwhile because
    memory ran out.
    """
    stage = {"stage": child.stage} if child.stage else {}
    words = f"; its last line: {child.last_words[-1]}" if child.last_words else ""
    name = signal.Signals(-status).name if status < 0 else ""
    ended = f"the build's process was killed by {name}" if name else f"the build's process ended with status {status}"
    facts = stage | ({"signal": name} if name else {"status": status})
    if name == "SIGKILL" and ran_out:
        return out_of_memory(f"the kernel killed the build for want of memory{_where(child)}", _use(child), **facts)
    if any(sounds_like(line) for line in child.last_words):
        return out_of_memory(f"the build ran out of memory{_where(child)}: {ended}{words}", _use(child), **facts)
    return Internal(Reason.BUILD_CRASHED, f"{ended}{_where(child)}{words}", **facts)


def _where(child: ChildProcess) -> str:
    return f", in {child.stage}" if child.stage else ""


def _use(child: ChildProcess) -> MemoryUse:
    return MemoryUse(child.estimate_bytes, child.peak_bytes, child.limit_bytes or memory_limit_bytes())
