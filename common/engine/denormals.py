"""Floats below the smallest normal one, taken as zero by the calling thread while an engine runs.

The exponential of a masked score ends among them, and an x86 processor needs some hundred cycles for each: softmax
over a window that is not full runs five times slower. onnxruntime's option covers its own threads and, in a process'
first session, the thread that makes it; not the thread that calls it, which takes part in every step.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO = 0x8040  # of MXCSR
_WORDS, _MXCSR = 8, 7  # of glibc's fenv_t on x86-64

_Environment = ctypes.c_uint32 * _WORDS


def _open_libm() -> ctypes.PyDLL | None:
    """The C library's floating-point environment, where its layout is known; other processors hardly need this."""
    if platform.machine() not in {"x86_64", "AMD64"} or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.PyDLL("libm.so.6")


_LIBM = _open_libm()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within the block, this thread takes denormals as zero; what was set before is set again after it."""
    if _LIBM is None:
        yield
        return
    before = _Environment()
    _LIBM.fegetenv(before)
    within = _Environment(*before)
    within[_MXCSR] |= _FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO
    _LIBM.fesetenv(within)
    try:
        yield
    finally:
        _LIBM.fesetenv(before)
