"""The compiled operator, and ONNX Runtime told of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from common.engine.kernel.compile import LIBRARY

if TYPE_CHECKING:
    import onnxruntime as ort

log = structlog.get_logger()

INSTRUCTIONS = frozenset({"fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""What the library is compiled for, as Linux names it."""
CPU_INFO = Path("/proc/cpuinfo")


def register(options: ort.SessionOptions) -> None:
    """Let sessions of these options run `sinkserve.WindowAttention` by the library, where it can be loaded.

    Where it cannot, a graph's own function of that name says in ONNX's operators what it computes.
    """
    if available():
        options.register_custom_ops_library(str(LIBRARY))


@cache
def available() -> bool:
    """Whether this installation has the library, and this machine can load it and has AVX-512, which it is made for."""
    if not LIBRARY.exists() or not _instructions() >= INSTRUCTIONS:
        return False
    import onnxruntime as ort  # noqa: PLC0415 - commands ask, and few of them run an engine

    try:
        ort.SessionOptions().register_custom_ops_library(str(LIBRARY))
    except Exception as error:  # noqa: BLE001 - onnxruntime has a dozen classes for this, with no common one
        log.warning("kernel.not_loaded", library=str(LIBRARY), warning=f"attention runs without it: {error}")
        return False
    return True


def _instructions() -> frozenset[str]:
    """What this processor has, and Linux lets programs use; nothing where it does not say."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
