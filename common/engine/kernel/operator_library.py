"""The compiled operator, and ONNX Runtime told of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import structlog

from common.engine.kernel.compile import LIBRARY

if TYPE_CHECKING:
    import onnxruntime as ort

log = structlog.get_logger()


def register(options: ort.SessionOptions) -> None:
    """Let sessions of these options run `sinkserve.WindowAttention` by the library, where it can be loaded.

    Where it cannot, a graph's own function of that name says in ONNX's operators what it computes.
    """
    if available():
        options.register_custom_ops_library(str(LIBRARY))


@cache
def available() -> bool:
    """Whether this installation has the library and this machine can load it."""
    if not LIBRARY.exists():
        return False
    import onnxruntime as ort  # noqa: PLC0415 - commands ask, and few of them run an engine

    try:
        ort.SessionOptions().register_custom_ops_library(str(LIBRARY))
    except Exception as error:  # noqa: BLE001 - onnxruntime has a dozen classes for this, with no common one
        log.warning("kernel.not_loaded", library=str(LIBRARY), warning=f"attention runs without it: {error}")
        return False
    return True
