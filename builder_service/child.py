"""The process of one build: `python -m builder_service.child`, started by a worker and by nobody else.

Messages come on stdin and go to stdout; what libraries print to either goes to stderr, which the worker reads as
the build's log. The process ends with its worker: when stdin closes, or by the kernel's signal.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import signal
import threading
import time
import traceback
from typing import BinaryIO

from pydantic import BaseModel

from builder_service.builds import Stage
from builder_service.failure import Failure
from builder_service.messages import Answer, AskKey, AskStore, Built, Failed, Log, Order, Progress
from builder_service.pipeline import run
from common.errors import Internal, Reason, ResourceExhausted, SinkServeError

_PR_SET_PDEATHSIG = 1
_LEAST_S = 0.1
"""Between two reports of progress in a stage."""
_NO_MEMORY = ("bad_alloc", "cannot allocate memory", "failed to allocate memory")
"""What libraries say that have an error of their own for it, which may be wrapped in one of ours."""
_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PipeParent:
    """The worker at the other end of two pipes."""

    def __init__(self, received: queue.SimpleQueue[bytes], out: BinaryIO) -> None:
        self._received = received
        self._out = out
        self._reported: tuple[Stage, float] = (Stage.RESOLVE, -1.0)
        self.stage = Stage.RESOLVE

    def progress(self, stage: Stage, done: float) -> None:
        """Report, but not more often than a person can read."""
        now = time.monotonic()
        last_stage, last_time = self._reported
        if stage is last_stage and done < 1.0 and now - last_time < _LEAST_S:
            return
        self._reported, self.stage = (stage, now), stage
        self.send(Progress(stage=stage, done=done))

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
    parent = PipeParent(received, out)
    try:
        manifest = run(order, parent)
    except Exception as error:  # noqa: BLE001 - whatever it was, the worker is to know
        parent.send(Failed(failure=Failure.of(explain(error, parent.stage))))
        return
    if manifest is not None:
        parent.send(Built(manifest=manifest))


def explain(error: Exception, stage: Stage) -> SinkServeError:
    """The cause of a failed build, as a person can act on it; what is a fault of ours goes to the log as well."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in _NO_DISK:
        return ResourceExhausted(Reason.OUT_OF_DISK, f"the disk is full, in {stage}: {error}", stage=stage)
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _NO_MEMORY):
        message = f"the build ran out of memory, in {stage}: {error}; free some, or choose a smaller precision or cache"
        return ResourceExhausted(Reason.OUT_OF_MEMORY, message, stage=stage)
    if isinstance(error, SinkServeError):
        return error
    traceback.print_exception(error)
    return Internal(Reason.BUILD_CRASHED, f"the build failed in {stage}: {text}; its log says where", stage=stage)


def _keep_stdout() -> BinaryIO:
    """Take stdout for messages, and let whatever prints write to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def _receive() -> queue.SimpleQueue[bytes]:
    """Lines of stdin; the end of stdin is the end of the worker, and so of this process and all it started."""
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
