"""TensorRT's log: a call that fails returns nothing, and only the log has the cause."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import tensorrt as trt

_KEPT = 5
_NO_DRIVER = "cudaError 35"
"""What TensorRT-RTX adds to every error on a machine without a driver, which it does not need to compile."""
_BAD = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)


class TensorRtLog(trt.ILogger):
    """Passes on warnings and errors, and keeps the last errors."""

    def __init__(self, write: Callable[[str], None], title: str = "TensorRT") -> None:
        trt.ILogger.__init__(self)
        self._write = write
        self._title = title
        self._errors: deque[str] = deque(maxlen=_KEPT)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in _BAD:
            self._errors.append(msg)
            self._write(f"{self._title}: error: {msg}")
        elif severity == trt.ILogger.Severity.WARNING:
            self._write(f"{self._title}: warning: {msg}")

    @property
    def last_words(self) -> str:
        """The last errors, oldest first."""
        return "; ".join(filter(None, map(causes, self._errors))) or f"{self._title} gave no reason"


def causes(text: str) -> str:
    """An error without the lines that only say that there is no driver."""
    return "\n".join(line for line in text.splitlines() if _NO_DRIVER not in line)
