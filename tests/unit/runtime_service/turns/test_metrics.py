"""What a turn adds to the counters, by how it ended."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from common.errors import Internal, Reason
from runtime_service.domain.turn import FinishReason, Timing, Usage
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.turns.metrics import FIRST_TOKEN_S, TOKEN_S, TurnMetrics

ENGINE = "demo@1"
USAGE = Usage(
    prompt_tokens=7,
    generated_tokens=5,
    position=40,
    evicted_tokens=3,
    recalled_tokens=6,
    drafted_tokens=9,
    accepted_tokens=2,
)
USAGE_COUNTERS = ("prompt", "generated", "evicted", "recalled", "drafted", "accepted")
TIMING = Timing(queue_s=0.5, prefill_s=0.25, first_token_s=2.0, decode_s=0.8)


class Counted:
    """A meter, and what it says of an engine."""

    def __init__(self) -> None:
        self.meter = TurnMetrics()

    def end(
        self, reason: FinishReason, usage: Usage = USAGE, timing: Timing = TIMING, error: Internal | None = None
    ) -> None:
        self.meter.turn_ended("sessions/s", "t", ENGINE, Outcome(reason, usage, timing, 0, error=error))

    def value(self, name: str, **labels: str) -> float | None:
        return self.meter.registry.get_sample_value(f"sinkserve_runtime_{name}", {"engine": ENGINE, **labels})

    def times(self, name: str) -> tuple[float | None, float | None]:
        """How many were observed, and their sum."""
        return self.value(f"{name}_seconds_count"), self.value(f"{name}_seconds_sum")


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_a_turn_counts_its_tokens_and_its_times(counted: Counted) -> None:
    counted.end(FinishReason.STOP)
    counted.end(FinishReason.LENGTH)
    assert counted.value("turns_total", finish_reason="STOP") == 1
    assert counted.value("turns_total", finish_reason="LENGTH") == 1
    tokens = [counted.value(f"{name}_tokens_total") for name in USAGE_COUNTERS]
    assert tokens == [14, 10, 6, 12, 18, 4]
    assert counted.times("queue") == (2, 1.0)
    assert counted.times("prefill") == (2, 0.5)
    assert counted.times("time_to_first_token") == (2, 4.0)


def test_time_per_token_is_of_the_tokens_after_the_first(counted: Counted) -> None:
    counted.end(FinishReason.STOP)
    assert counted.times("time_per_output_token") == (1, 0.2)
    counted.end(FinishReason.STOP, Usage(prompt_tokens=1, generated_tokens=1))
    assert counted.times("time_per_output_token") == (1, 0.2)
    assert counted.times("time_to_first_token") == (2, 4.0)


def test_a_turn_without_a_reply_has_no_first_token(counted: Counted) -> None:
    counted.end(FinishReason.INPUT_ONLY, Usage(prompt_tokens=7))
    assert counted.times("time_to_first_token") == (None, None)
    assert counted.times("prefill") == (1, 0.25)


def test_a_turn_that_never_ran_was_only_queued(counted: Counted) -> None:
    counted.end(FinishReason.CANCELLED, Usage(position=9), Timing(queue_s=3.0))
    assert counted.times("queue") == (1, 3.0)
    assert counted.times("prefill") == (None, None)


def test_an_error_counts_by_its_reason_and_not_among_the_times(counted: Counted) -> None:
    counted.end(FinishReason.ERROR, error=Internal(Reason.NON_FINITE_LOGITS, "x"))
    assert counted.value("turns_total", finish_reason="ERROR") == 1
    assert counted.value("turn_errors_total", reason="NON_FINITE_LOGITS") == 1
    assert counted.times("time_to_first_token") == (None, None)
    assert counted.value("generated_tokens_total") == 5


def test_the_end_of_a_turn_is_logged_with_its_ids(counted: Counted) -> None:
    with capture_logs() as logged:
        counted.end(FinishReason.STOP)
        counted.end(FinishReason.ERROR, error=Internal(Reason.INTERNAL, "x"))
    ended = {"event": "turn.ended", "session": "sessions/s", "turn": "t", "engine": ENGINE, "log_level": "info"}
    assert logged == [
        {**ended, "reason": "STOP", "position": 40},
        {**ended, "reason": "ERROR", "position": 40, "cause": "INTERNAL"},
    ]


def test_an_engine_that_has_run_nothing_counts_from_zero(counted: Counted) -> None:
    assert counted.value("turns_total", finish_reason="STOP") is None
    counted.meter.know(ENGINE)
    counted.meter.know(ENGINE)
    assert {counted.value("turns_total", finish_reason=reason.value) for reason in FinishReason} == {0}
    assert counted.value("evicted_tokens_total") == 0


def test_meters_count_for_themselves() -> None:
    one, other = Counted(), Counted()
    one.end(FinishReason.STOP)
    assert other.value("turns_total", finish_reason="STOP") is None


@pytest.mark.parametrize("bounds", [FIRST_TOKEN_S, TOKEN_S])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_turns_are_counted_by_the_form_of_their_reply(counted: Counted) -> None:
    counted.meter.form_ended(ENGINE, "json_schema", matched=True)
    counted.meter.form_ended(ENGINE, "json_schema", matched=False)
    assert counted.value("form_turns_total", form="json_schema", matched="true") == 1
    assert counted.value("form_turns_total", form="json_schema", matched="false") == 1
