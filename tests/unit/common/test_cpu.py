from __future__ import annotations

from pathlib import Path

import pytest

from common.cpu import check_cpu, cpu_features, needed_features
from common.errors import FailedPrecondition, Reason
from common.spec import Precision

CPUINFO = """processor\t: 0
model name\t: Some Processor
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni
processor\t: 1
flags\t\t: fpu
"""


def test_features_are_those_of_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert cpu_features(tmp_path / "cpuinfo") == {"fpu", "sse4_2", "avx2", "avx512f", "avx512_vnni"}


def test_arm_calls_them_features(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd asimddp i8mm\n")
    assert "i8mm" in cpu_features(tmp_path / "cpuinfo")


@pytest.mark.parametrize("text", ["", "processor: 0\n"])
def test_a_file_that_says_nothing_means_no_features(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == frozenset()
    assert cpu_features(tmp_path / "nowhere") == frozenset()


@pytest.mark.parametrize("found", [{"avx512_vnni"}, {"avx_vnni", "fpu"}, {"amx_int8"}])
def test_any_one_of_the_needed_features_is_enough(found: set[str]) -> None:
    check_cpu(("avx512_vnni", "avx_vnni", "amx_int8"), frozenset(found))


def test_an_engine_that_needs_nothing_runs_anywhere() -> None:
    check_cpu((), frozenset())


def test_what_is_missing_is_refused_with_expected_and_found() -> None:
    with pytest.raises(FailedPrecondition, match=r"one of avx512_vnni, amx_int8; this one has avx2, avx512f") as caught:
        check_cpu(("avx512_vnni", "amx_int8"), frozenset({"fpu", "avx512f", "avx2"}))
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert caught.value.metadata == {"expected": "avx512_vnni amx_int8", "found": "avx2 avx512f"}


def test_a_processor_of_which_nothing_is_known_is_refused_too() -> None:
    with pytest.raises(FailedPrecondition, match="none that is known"):
        check_cpu(("avx512_vnni",), frozenset())


def test_int8_needs_products_that_do_not_saturate_and_nothing_else_does() -> None:
    check_cpu(needed_features(Precision.INT8), frozenset({"avx2", "avx512_vnni"}))
    with pytest.raises(FailedPrecondition):
        check_cpu(needed_features(Precision.INT8), frozenset({"avx2", "avx512f", "avx512bw"}))
    for precision in (Precision.FP32, Precision.INT4):
        check_cpu(needed_features(precision), frozenset())
