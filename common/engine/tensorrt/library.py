"""NVIDIA's two libraries that execute plans, TensorRT and TensorRT-RTX, and where they differ for an engine.

Their Python interfaces are the same by name, and so is the code that drives them: it imports `tensorrt`. In a process
that uses TensorRT-RTX its module takes that name. Their symbols have the same names too, so a process has one of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import Target

_NAME = "tensorrt"


@dataclass(frozen=True)
class Library:
    """One of the two."""

    title: str
    target: Target
    module: str
    """What it is imported as."""
    extra: str
    """The extra of this package that installs it."""
    just_in_time: bool
    """Whether kernels are finished where a plan is loaded, which takes seconds that a `RuntimeCache` saves the next
    time.
    """


TENSORRT = Library("TensorRT", Target.TENSORRT, _NAME, "tensorrt", just_in_time=False)
TENSORRT_RTX = Library("TensorRT-RTX", Target.TENSORRT_RTX, "tensorrt_rtx_bindings", "tensorrt-rtx", just_in_time=True)
LIBRARIES: Mapping[Target, Library] = {library.target: library for library in (TENSORRT, TENSORRT_RTX)}
RTX_CUDA = "13.0"
"""Of the packages below, which are made for CUDA 13."""
RTX_PACKAGES = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")


def use(library: Library) -> None:
    """Have `import tensorrt` mean this library. Raises FailedPrecondition (ENGINE_INCOMPATIBLE) where it is not
    installed, and in a process that has the other one.
    """
    try:
        module = importlib.import_module(library.module)
    except (ImportError, OSError) as error:  # a package, or a library that it loads
        raise missing(library, error) from None
    named = sys.modules.setdefault(_NAME, module)
    if (named is sys.modules.get(TENSORRT_RTX.module)) is not library.just_in_time:
        other = TENSORRT if library is TENSORRT_RTX else TENSORRT_RTX
        message = (
            f"this process has {other.title}, and one that has the one cannot load the other: start another service "
            f"for engines of target {library.target}"
        )
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message)


def rtx_version() -> str:
    """Version of the installed TensorRT-RTX, four numbers, without loading it.

    Raises FailedPrecondition (ENGINE_INCOMPATIBLE) where a package is missing, or the two are not of one version.
    """
    try:
        versions = {version(package) for package in RTX_PACKAGES}
    except PackageNotFoundError as error:
        raise missing(TENSORRT_RTX, error) from None
    if len(versions) > 1:
        found = ", ".join(sorted(versions))
        message = f"{' and '.join(RTX_PACKAGES)} have to be of one version, and are of {found}: install both anew"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, found=found)
    return versions.pop()


def missing(library: Library, error: Exception) -> FailedPrecondition:
    """The error of a machine that has not what a target needs."""
    install = f"pip install 'sinkserve[{library.extra}]'"
    message = f"target {library.target} needs {library.title} and CUDA's bindings, {install}: {error}"
    return FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message)
