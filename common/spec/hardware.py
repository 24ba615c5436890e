"""The hardware that a compiled engine needs, and whether a machine has it. Only compares numbers: uses no CUDA.

The rules are TensorRT's, from its pages on engine compatibility: a plan runs on the system it was built for, on GPUs of
the same compute capability, under the same version of TensorRT, unless it was built for more. A plan of TensorRT-RTX
runs on GPUs of the compute capabilities that it was built for, under the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from common.errors import FailedPrecondition, Reason, ResourceExhausted
from common.spec.capabilities import lacks, least_capability
from common.spec.model_spec import TargetHardware
from common.spec.target_options import HardwareCompatibility

AMPERE = "8.0"
"""Compute capability of the first GPUs that `ampere_plus` means."""

TwoNumbers = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")]
MaybeTwoNumbers = Annotated[str, Field(pattern=r"^([0-9]+\.[0-9]+)?$")]
FourNumbers = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){3}$")]


class Hardware(BaseModel):
    """What an engine was compiled on and for."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gpu: str
    """Name of the GPU, such as `NVIDIA H200`; empty where it was compiled without one."""
    compute_capability: MaybeTwoNumbers
    """Compute capability of the GPU, such as 9.0; empty where it was compiled without one."""
    compute_capabilities: tuple[TwoNumbers, ...] = ()
    """Those that TensorRT-RTX compiled for; none: it was compiled by TensorRT."""
    tensorrt_version: FourNumbers
    """Version of TensorRT, or of TensorRT-RTX, such as 11.4.0.106."""
    cuda_version: TwoNumbers
    """Version of the CUDA runtime, such as 13.0."""
    hardware_compatibility: HardwareCompatibility
    """Which GPUs the engine was compiled for, besides the kind that it was compiled on."""
    version_compatible: bool
    """Whether it was compiled for later versions of TensorRT too."""
    platform: str
    """System and processor, such as `linux-x86_64`."""

    @property
    def library(self) -> str:
        """What it was compiled by, and is executed by."""
        return "TensorRT-RTX" if self.compute_capabilities else "TensorRT"


@dataclass(frozen=True)
class GpuMachine:
    """A machine with a GPU, as detected, and the library that was asked for; texts are written as in `Hardware`."""

    gpu: str
    compute_capability: str
    tensorrt_version: str
    cuda_version: str
    """CUDA runtime of this process."""
    cuda_driver_version: str
    """Newest CUDA that the driver supports, such as 13.1."""
    platform: str
    free_bytes: int
    """Free device memory."""
    total_bytes: int
    """Total device memory."""


class _Rule(NamedTuple):
    what: str
    holds: bool
    expected: str
    found: str


def check_runs(reference: str, needed: Hardware, found: GpuMachine) -> None:
    """Raise FailedPrecondition (ENGINE_INCOMPATIBLE), listing every requirement that is not met, if the engine cannot
    run.
    """
    wrong = [rule for rule in _rules(needed, found) if not rule.holds]
    if not wrong:
        return
    expected = ", ".join(f"{rule.what} {rule.expected}" for rule in wrong)
    there = ", ".join(f"{rule.what} {rule.found}" for rule in wrong)
    message = f"{reference} needs {expected}; here is {there}; build it again for this machine"
    raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=reference, expected=expected, found=there)


def check_asked(asked: TargetHardware, found: GpuMachine) -> None:
    """Raise FailedPrecondition (ENGINE_INCOMPATIBLE) if the GPU here is not the kind that is asked for."""
    expected = asked.compute_capability
    if expected in ("", found.compute_capability):
        return
    message = (
        f"hardware.compute_capability is {expected}, and the builder's {found.gpu} has {found.compute_capability}: "
        "engines are compiled on the kind of GPU that runs them; start a builder on one"
    )
    there = found.compute_capability
    raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, expected=expected, found=there)


def check_able(precision: str, found: GpuMachine) -> None:
    """Raise FailedPrecondition (ENGINE_INCOMPATIBLE) if the GPU here cannot run a precision."""
    if not lacks(found.compute_capability, precision):
        return
    least, there = least_capability(precision), f"{found.gpu}, compute capability {found.compute_capability}"
    message = f"spec.precision is {precision}, which needs compute capability {least} or newer; here is {there}"
    raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, expected=least, found=found.compute_capability)


def warnings(needed: Hardware, found: GpuMachine) -> tuple[str, ...]:
    """Warnings about an engine that runs here but was compiled for other hardware."""
    if needed.gpu in ("", found.gpu):
        return ()
    what = f"the engine was compiled on {needed.gpu} and runs on {found.gpu}"
    return (f"{what}: its kernels were chosen by their times there, so it may be slower than one that is built here",)


def fitting_slots(wanted: int, kv_bytes_per_slot: int, other_bytes: int, free_bytes: int, share: float) -> int:
    """How many slots of `wanted` fit in `share` of the free device memory beside `other_bytes`, at least 1.

    `other_bytes` are weights and activations. Raises ResourceExhausted (OUT_OF_MEMORY) if not one slot fits.
    """
    usable = int(free_bytes * share)
    fitting = min(wanted, (usable - other_bytes) // kv_bytes_per_slot)
    if fitting >= 1:
        return fitting
    message = (
        f"one slot takes {_mib(kv_bytes_per_slot)} of device memory beside {_mib(other_bytes)} of weights and "
        f"activations, and {_mib(usable)} of the {_mib(free_bytes)} that are free may be used; unload another engine, "
        "or build it with a smaller window"
    )
    needed = other_bytes + kv_bytes_per_slot
    raise ResourceExhausted(Reason.OUT_OF_MEMORY, message, needed_bytes=needed, free_bytes=free_bytes)


def _rules(needed: Hardware, found: GpuMachine) -> tuple[_Rule, ...]:
    return (
        _Rule("platform", needed.platform == found.platform, needed.platform, found.platform),
        _capability(needed, found.compute_capability),
        _tensorrt(needed, found.tensorrt_version),
        _driver(needed, found.cuda_driver_version),
    )


def _capability(needed: Hardware, found: str) -> _Rule:
    what = "compute capability"
    if needed.compute_capabilities:
        expected = " or ".join(needed.compute_capabilities)
        return _Rule(what, found in needed.compute_capabilities, expected, found)
    if needed.hardware_compatibility is HardwareCompatibility.AMPERE_PLUS:
        return _Rule(what, _numbers(found) >= _numbers(AMPERE), f"{AMPERE} or newer", found)
    expected = needed.compute_capability
    return _Rule(what, _numbers(found) == _numbers(expected), expected, found)


def _tensorrt(needed: Hardware, found: str) -> _Rule:
    built, there = _numbers(needed.tensorrt_version), _numbers(found)
    if not needed.version_compatible:  # nor is any plan of TensorRT-RTX
        return _Rule(needed.library, there == built, needed.tensorrt_version, found)
    holds = there >= built and there[0] <= built[0] + 1
    return _Rule("TensorRT", holds, f"{needed.tensorrt_version} or newer, up to {built[0] + 1}", found)


def _driver(needed: Hardware, found: str) -> _Rule:
    """A driver runs all of the major versions of CUDA up to its own."""
    major = _numbers(needed.cuda_version)[0]
    return _Rule("a driver for CUDA", _numbers(found)[0] >= major, f"{major} or newer", found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
