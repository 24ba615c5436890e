"""Every cause of the failure table of docs/use/builder.md is brought about for real."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sinkserve.cli.terminal.failures import HINTS
from tests.contract.builds import test_leases
from tests.service.builder.failures import test_disk, test_ends, test_memory, test_sources, test_spoiled
from tests.service.builder.failures.causes import GUIDE, ROW

CAUSES: dict[str, tuple[Callable[..., object], ...]] = {
    "SOURCE_NOT_FOUND": (test_sources.test_a_missing_file_is_named,),
    "SOURCE_NOT_ALLOWED": (test_sources.test_a_source_outside_the_roots_is_refused_with_the_roots,),
    "CHECKPOINT_INVALID": (test_sources.test_a_broken_tensor_is_named_with_its_file,),
    "ARCHITECTURE_UNSUPPORTED": (test_sources.test_an_unknown_architecture_is_named,),
    "CONFIG_UNSUPPORTED": (test_sources.test_an_unknown_field_of_the_config_is_named,),
    "INVALID_SPEC": (test_sources.test_a_spec_that_does_not_suit_the_model_is_named_with_its_field,),
    "ENGINE_INCOMPATIBLE": (test_sources.test_a_target_that_this_machine_cannot_compile_for_is_refused,),
    "OUT_OF_MEMORY": (
        test_memory.test_what_cannot_fit_is_refused_before_it_begins,
        test_memory.test_a_build_that_gets_no_more_memory_fails_alone_with_the_figures,
        test_memory.test_a_build_that_the_kernel_killed_for_memory_says_so,
    ),
    "OUT_OF_DISK": (
        test_disk.test_a_full_disk_is_named_before_anything_is_written,
        test_disk.test_a_disk_that_others_fill_meanwhile_is_named_and_cleaned,
    ),
    "TOOLCHAIN_FAILED": (test_spoiled.test_a_graph_that_the_toolchain_does_not_take_comes_with_its_words,),
    "VERIFICATION_FAILED": (test_spoiled.test_an_engine_whose_numbers_are_wrong_says_by_how_much,),
    "STORE_UNAVAILABLE": (test_spoiled.test_a_store_that_cannot_be_used_says_which_and_why,),
    "STORE_CORRUPT": (test_spoiled.test_a_file_that_changes_on_its_way_to_the_store_is_not_published,),
    "BUILD_CANCELLED": (test_ends.test_a_cancelled_build_says_so,),
    "BUILD_TIMED_OUT": (test_ends.test_a_build_that_takes_too_long_says_how_long_it_had,),
    "BUILD_CRASHED": (test_ends.test_a_crash_says_its_signal_and_where,),
    "WORKER_LOST": (test_ends.test_a_build_whose_builders_died_under_it_says_how_often,),
    "INTERNAL": (test_ends.test_a_fault_of_the_builder_says_nothing_of_its_inside,),
}
"""The tests that cause it for real, one for each row of a reason in the failure table of docs/use/builder.md."""
SHORTER = {"WORKER_LOST": test_leases.test_a_build_that_loses_worker_after_worker_fails}
"""What `make test` has instead where all that cause it take long."""


def test_every_row_of_the_guide_is_caused_here_and_every_cause_has_its_row() -> None:
    rows = [reason for reason, _ in ROW.findall(GUIDE.read_text())]
    assert rows == [reason for reason, tests in CAUSES.items() for _ in tests]


def test_every_cause_comes_with_a_hint_but_those_that_say_themselves_what_to_do() -> None:
    assert CAUSES.keys() - HINTS.keys() == {"INVALID_SPEC", "ENGINE_INCOMPATIBLE", "STORE_UNAVAILABLE", "INTERNAL"}


@pytest.mark.parametrize("reason", CAUSES)
def test_every_cause_is_seen_by_make_test(reason: str) -> None:
    by_day = [*CAUSES[reason], *filter(None, [SHORTER.get(reason)])]
    assert not all({"long", "nightly"} & {mark.name for mark in getattr(test, "pytestmark", ())} for test in by_day)
