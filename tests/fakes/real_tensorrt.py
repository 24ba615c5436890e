"""TensorRT's real Python classes, without TensorRT and without a GPU: what the recording fakes are compared with."""

from __future__ import annotations

import platform
import sys
from types import ModuleType

import pytest

from typings.stub_libraries import c_compiler, import_bindings

WITHOUT_BINDINGS = (
    "NVIDIA publishes the bindings that are compared for x86-64 Linux"
    if (sys.platform, platform.machine()) != ("linux", "x86_64")
    else "the stand-in libraries need a C compiler"
    if c_compiler() is None
    else ""
)
needs_bindings = pytest.mark.skipif(bool(WITHOUT_BINDINGS), reason=WITHOUT_BINDINGS)


def import_real_tensorrt() -> ModuleType:
    """The module that users import as ``tensorrt``: its classes, enums and signatures are real, its builders refuse."""
    return import_bindings()
