"""The process of one build: `python -m builder_service.pipeline.child`, started by a worker and by nobody else.

It reads messages from stdin and writes messages to stdout. What libraries print goes to stderr, which the worker reads
as the build's log. The process ends when its worker ends: stdin closes, or the kernel sends a signal.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import queue
import signal
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from builder_service.machine.memory import free_disk_bytes, limit_memory, memory_limit_bytes, peak_memory_bytes
from builder_service.machine.out_of_memory import MemoryUse, mib, out_of_memory, sounds_like
from builder_service.pipeline.estimate import Estimate
from builder_service.pipeline.messages import Answer, AskKey, AskStore, Built, Failed, Log, Order, Planned, Progress
from builder_service.pipeline.pipeline import run_build
from builder_service.pipeline.time_left import TimeLeft
from builder_service.queue.build import Stage, StageProgress
from builder_service.queue.failure import Failure
from common.errors import Internal, Reason, ResourceExhausted, SinkServeError
from common.panics import pass_on_ends
from common.spec.model_spec import Target

_PR_SET_PDEATHSIG = 1
_LEAST_S, _MOST_S = 0.1, 1.0
"""Least time between two reports of progress in a stage: short at first, later a hundredth of the time so far."""
_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FIRST_TO_DIE = 500
"""Score from -1000 to 1000: when memory runs out, the kernel kills the build and not the services beside it."""


class PipeParent:
    """The worker at the other end of two pipes."""

    def __init__(self, received: queue.SimpleQueue[bytes], out: BinaryIO, target: Target = Target.ONNXRUNTIME) -> None:
        self._received = received
        self._out = out
        self._start = time.monotonic()
        self._remaining = TimeLeft(self._start, target)
        self._reported: tuple[Stage, float] = (Stage.RESOLVE, -math.inf)
        self.stage = Stage.RESOLVE
        self.needs: Estimate | None = None

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        """Report, but not more often than a person can read."""
        now = time.monotonic()
        last_stage, last_time = self._reported
        pause = min(_MOST_S, max(_LEAST_S, (now - self._start) / 100))
        if stage is last_stage and done < 1.0 and now - last_time < pause:
            return
        self._reported, self.stage = (stage, now), stage
        report = StageProgress(stage, done, round(done * bytes_total), bytes_total)
        self.send(Progress(**vars(replace(report, remaining_s=self._remaining.after(report, now)))))

    def expect(self, needs: Estimate) -> None:
        """Send the estimate early: the worker needs it to explain an end that this process cannot report itself."""
        self.needs = needs
        self.send(Planned(estimate_bytes=needs.memory_bytes, limit_bytes=memory_limit_bytes()))

    def log(self, text: str) -> None:
        """Write a line."""
        self.send(Log(text=text))

    def may_build(self, key: str) -> bool:
        """Ask."""
        return self._ask(AskKey(build_key=key))

    def may_store(self, digests: tuple[str, ...]) -> bool:
        """Ask."""
        return self._ask(AskStore(digests=digests))

    def send(self, message: BaseModel) -> None:
        """Send one message."""
        self._out.write(message.model_dump_json().encode() + b"\n")
        self._out.flush()

    def _ask(self, question: BaseModel) -> bool:
        self.send(question)
        return Answer.model_validate_json(self._received.get()).go_on


def main() -> None:
    """Build what the first line on stdin orders."""
    out = _keep_stdout()
    received = _receive()
    order = Order.model_validate_json(received.get())
    _take_limits(order)
    parent = PipeParent(received, out, order.spec.target)
    try:
        manifest = run_build(order, parent)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the worker is to know
        pass_on_ends(error)
        parent.send(Failed(failure=Failure.of(explain(error, parent.stage, order.work, parent.needs))))
        return
    if manifest is not None:
        parent.send(Built(manifest=manifest))


def explain(error: BaseException, stage: Stage, work: Path, needs: Estimate | None = None) -> SinkServeError:
    """The error of a failed build, for a person to act on; a fault of this program is also written to the log."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in _NO_DISK:
        return _out_of_disk(error, stage, work, needs)
    if isinstance(error, MemoryError) or sounds_like(text):
        use = MemoryUse(needs.memory_bytes if needs else 0, peak_memory_bytes(), memory_limit_bytes())
        return out_of_memory(f"the build ran out of memory, in {stage}: {str(error) or text}", use, stage=stage)
    if isinstance(error, SinkServeError):
        return error
    traceback.print_exception(error)
    return Internal(Reason.BUILD_CRASHED, f"the build failed in {stage}: {text}; its log says where", stage=stage)


def _out_of_disk(error: OSError, stage: Stage, work: Path, needs: Estimate | None) -> SinkServeError:
    need, free = (needs.disk_bytes if needs else 0), free_disk_bytes(work)
    needed = f"the build needs about {mib(need)}, " if need else ""
    message = f"the disk is full, in {stage}: {error}; {needed}{mib(free)} are free in {work}"
    path = error.filename or work
    return ResourceExhausted(Reason.OUT_OF_DISK, message, stage=stage, path=path, needed_bytes=need, free_bytes=free)


def _take_limits(order: Order) -> None:
    if order.memory_limit_mib:
        limit_memory(order.memory_limit_mib * 2**20)
    with suppress(OSError):  # where /proc is read-only the kernel chooses by size alone
        Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_DIE), encoding="ascii")


def _keep_stdout() -> BinaryIO:
    """Keep stdout for messages; whatever prints writes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def _receive() -> queue.SimpleQueue[bytes]:
    """The lines of stdin. When stdin ends the worker has ended, and this process kills its process group."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:  # by hand: Python aborts when it ends while a thread holds the lock of sys.stdin
        rest = b""
        while data := os.read(0, 65536):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                lines.put(line)
        os.killpg(0, signal.SIGKILL)

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=read, name="worker-watch", daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
