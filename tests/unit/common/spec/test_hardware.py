from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import FailedPrecondition, Reason, ResourceExhausted
from common.spec.hardware import GpuMachine, Hardware, check_asked, check_runs, fitting_slots, warnings
from common.spec.model_spec import TargetHardware
from common.spec.target_options import HardwareCompatibility
from tests.samples.whole_manifests import HARDWARE, RTX_HARDWARE

HERE = GpuMachine(
    "NVIDIA H200", "9.0", "11.4.0.106", "13.0", "13.0", "linux-x86_64", free_bytes=1 << 30, total_bytes=1 << 31
)
RTX_HERE = replace(HERE, gpu="NVIDIA GeForce RTX 3090", compute_capability="8.6", tensorrt_version="1.7.1.116")
MIB = 1 << 20


def _needed(**changes: Any) -> Hardware:
    return HARDWARE.model_copy(update=changes)


ANYWHERE = _needed(hardware_compatibility=HardwareCompatibility.AMPERE_PLUS)
LATER = _needed(version_compatible=True)


@pytest.mark.parametrize(
    ("needed", "found"),
    [
        (HARDWARE, HERE),
        (HARDWARE, replace(HERE, gpu="NVIDIA H100")),
        (HARDWARE, replace(HERE, cuda_driver_version="13.4")),
        (HARDWARE, replace(HERE, cuda_driver_version="14.0")),
        (_needed(cuda_version="13.2"), HERE),
        (_needed(hardware_compatibility=HardwareCompatibility.SAME_COMPUTE_CAPABILITY), HERE),
        (ANYWHERE, replace(HERE, compute_capability="8.0")),
        (ANYWHERE, replace(HERE, compute_capability="12.0")),
        (LATER, HERE),
        (LATER, replace(HERE, tensorrt_version="11.4.0.107")),
        (LATER, replace(HERE, tensorrt_version="11.10.0.1")),
        (LATER, replace(HERE, tensorrt_version="12.0.0.1")),
        (RTX_HARDWARE, RTX_HERE),
        (RTX_HARDWARE, replace(RTX_HERE, compute_capability="12.0", cuda_driver_version="14.0")),
    ],
)
def test_what_the_machine_has_runs(needed: Hardware, found: GpuMachine) -> None:
    check_runs("demo@1", needed, found)


@pytest.mark.parametrize(
    ("needed", "found", "expected", "there"),
    [
        (HARDWARE, replace(HERE, platform="linux-aarch64"), "platform linux-x86_64", "platform linux-aarch64"),
        (HARDWARE, replace(HERE, compute_capability="8.6"), "compute capability 9.0", "compute capability 8.6"),
        (HARDWARE, replace(HERE, compute_capability="10.0"), "compute capability 9.0", "compute capability 10.0"),
        (
            _needed(hardware_compatibility=HardwareCompatibility.SAME_COMPUTE_CAPABILITY),
            replace(HERE, compute_capability="12.0"),
            "compute capability 9.0",
            "compute capability 12.0",
        ),
        (
            ANYWHERE,
            replace(HERE, compute_capability="7.5"),
            "compute capability 8.0 or newer",
            "compute capability 7.5",
        ),
        (HARDWARE, replace(HERE, tensorrt_version="11.4.0.107"), "TensorRT 11.4.0.106", "TensorRT 11.4.0.107"),
        (
            LATER,
            replace(HERE, tensorrt_version="11.4.0.99"),
            "TensorRT 11.4.0.106 or newer, up to 12",
            "TensorRT 11.4.0.99",
        ),
        (
            LATER,
            replace(HERE, tensorrt_version="13.0.0.1"),
            "TensorRT 11.4.0.106 or newer, up to 12",
            "TensorRT 13.0.0.1",
        ),
        (
            HARDWARE,
            replace(HERE, cuda_driver_version="12.9"),
            "a driver for CUDA 13 or newer",
            "a driver for CUDA 12.9",
        ),
        (
            RTX_HARDWARE,
            replace(RTX_HERE, compute_capability="8.9"),
            "compute capability 8.6 or 12.0",
            "compute capability 8.9",
        ),
        (
            RTX_HARDWARE,
            replace(RTX_HERE, tensorrt_version="1.7.1.117"),
            "TensorRT-RTX 1.7.1.116",
            "TensorRT-RTX 1.7.1.117",
        ),
    ],
)
def test_what_it_has_not_is_named_with_what_it_has(
    needed: Hardware, found: GpuMachine, expected: str, there: str
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        check_runs("demo@1", needed, found)
    error = caught.value
    assert error.reason is Reason.ENGINE_INCOMPATIBLE
    assert error.metadata == {"engine": "demo@1", "expected": expected, "found": there}
    assert error.message.startswith(f"demo@1 needs {expected}; here is {there};")


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = replace(HERE, compute_capability="8.6", tensorrt_version="10.16.0.72", cuda_driver_version="12.4")
    with pytest.raises(FailedPrecondition) as caught:
        check_runs("demo@1", HARDWARE, found)
    assert caught.value.metadata["found"] == ("compute capability 8.6, TensorRT 10.16.0.72, a driver for CUDA 12.4")


def test_another_gpu_of_the_same_kind_is_a_warning() -> None:
    assert warnings(HARDWARE, HERE) == warnings(RTX_HARDWARE, RTX_HERE) == ()
    (said,) = warnings(HARDWARE, replace(HERE, gpu="NVIDIA H100"))
    assert "NVIDIA H200" in said
    assert "NVIDIA H100" in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compute_capability", "9"),
        ("tensorrt_version", "11.4.0"),
        ("tensorrt_version", "11.4.0.post1"),
        ("cuda_version", ""),
        ("cuda_version", "13.0\n"),
    ],
)
def test_a_version_that_cannot_be_compared_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Hardware.model_validate(HARDWARE.model_dump() | {field: value})


VERSIONS = st.tuples(*[st.integers(0, 30)] * 4)


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


@given(built=VERSIONS, there=VERSIONS, compatible=st.booleans())
def test_versions_are_compared_as_numbers(built: tuple[int, ...], there: tuple[int, ...], compatible: bool) -> None:
    needed = _needed(tensorrt_version=_text(built), version_compatible=compatible)
    runs = there == built or (compatible and built < there < (built[0] + 2,))
    try:
        check_runs("demo@1", needed, replace(HERE, tensorrt_version=_text(there)))
    except FailedPrecondition:
        assert not runs
    else:
        assert runs


@given(
    wanted=st.integers(1, 1024),
    slot=st.integers(1, 1 << 40),
    other=st.integers(0, 1 << 40),
    free=st.integers(0, 1 << 43),
    share=st.floats(0.01, 1.0),
)
def test_as_many_slots_as_fit_and_not_one_more(wanted: int, slot: int, other: int, free: int, share: float) -> None:
    usable = int(free * share)
    try:
        slots = fitting_slots(wanted, slot, other, free, share)
    except ResourceExhausted:
        assert other + slot > usable
    else:
        assert 1 <= slots <= wanted
        assert other + slots * slot <= usable
        assert slots == wanted or other + (slots + 1) * slot > usable


def test_where_no_slot_fits_all_figures_are_told() -> None:
    with pytest.raises(ResourceExhausted) as caught:
        fitting_slots(8, 300 * MIB, 1500 * MIB, 2000 * MIB, 0.75)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    for figure in ("300 MiB", "1,500 MiB", "2,000 MiB"):
        assert figure in caught.value.message
    assert caught.value.metadata == {"needed_bytes": str(1800 * MIB), "free_bytes": str(2000 * MIB)}


@pytest.mark.parametrize("asked", ["", "9.0"])
def test_the_gpu_that_is_asked_for_may_be_any_or_this(asked: str) -> None:
    check_asked(TargetHardware(compute_capability=asked), HERE)


def test_another_gpu_than_is_asked_for_is_named_with_both() -> None:
    message = "hardware.compute_capability is 12.0, and the builder's NVIDIA H200 has 9.0"
    with pytest.raises(FailedPrecondition, match=message) as caught:
        check_asked(TargetHardware(compute_capability="12.0"), HERE)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
