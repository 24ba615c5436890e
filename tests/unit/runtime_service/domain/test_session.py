"""What a session becomes when it is created, and what no engine would accept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import InvalidArgument, Reason
from common.window import Geometry
from runtime_service.domain.session import NewSession, SessionOptions, settle

GEOMETRY = Geometry(sinks=4, window=16, chunk=4, slots=2)
ASKED = NewSession(engine="demo", system_prompt="be brief")


@pytest.mark.parametrize(
    ("pin", "sinks", "opening", "expected"),
    [
        (None, None, 3, (3, True)),  # fits: it becomes the sinks
        (None, None, 4, (4, True)),
        (None, None, 5, (4, False)),
        (None, 4, 3, (4, True)),  # the sinks asked for hold it, and what follows
        (None, 2, 3, (2, False)),
        (True, None, 3, (3, True)),
        (False, None, 3, (4, False)),
        (False, 0, 3, (0, False)),
    ],
)
def test_a_system_prompt_is_pinned_if_it_fits(
    pin: bool | None, sinks: int | None, opening: int, expected: tuple[int, bool]
) -> None:
    asked = replace(ASKED, options=SessionOptions(pin_system_prompt=pin, sink_tokens=sinks))
    options, pinned = settle(asked, GEOMETRY, opening)
    assert (options.sink_tokens, pinned) == expected
    assert options.window_tokens == 16


def test_a_prompt_that_must_be_pinned_and_does_not_fit_is_refused_with_both_numbers() -> None:
    asked = replace(ASKED, options=SessionOptions(pin_system_prompt=True))
    with pytest.raises(InvalidArgument) as caught:
        settle(asked, GEOMETRY, 5)
    assert caught.value.reason is Reason.SYSTEM_PROMPT_EXCEEDS_SINKS
    assert caught.value.metadata == {"tokens": "5", "sinks": "4"}


def test_without_a_system_prompt_nothing_is_pinned() -> None:
    asked = NewSession(engine="demo", options=SessionOptions(pin_system_prompt=True))
    options, pinned = settle(asked, GEOMETRY, 1)
    assert (options.sink_tokens, pinned) == (4, False)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (SessionOptions(sink_tokens=5), "options.sink_tokens"),
        (SessionOptions(sink_tokens=-1), "options.sink_tokens"),
        (SessionOptions(window_tokens=17), "options.window_tokens"),
        (SessionOptions(window_tokens=0), "options.window_tokens"),
    ],
)
def test_sizes_that_the_engine_does_not_have_are_refused(options: SessionOptions, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settle(replace(ASKED, options=options), GEOMETRY, 1)
    assert caught.value.violations[0].field == f"open.new_session.{field}"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (replace(ASKED, session_id="With Capitals"), "session_id"),
        (replace(ASKED, session_id="x" * 65), "session_id"),
        (replace(ASKED, session_id="x\n"), "session_id"),
        (replace(ASKED, labels={str(index): "" for index in range(33)}), "labels"),
        (replace(ASKED, labels={"": "x"}), "labels"),
        (replace(ASKED, labels={"k" * 64: "x"}), "labels"),
        (replace(ASKED, labels={"k": "x" * 256}), "labels['k']"),
        (replace(ASKED, options=SessionOptions(delete_after_idle_s=0.0)), "options.delete_after_idle_duration"),
        (replace(ASKED, options=SessionOptions(delete_after_idle_s=-1.0)), "options.delete_after_idle_duration"),
        (replace(ASKED, options=SessionOptions(delete_after_idle_s=1e12)), "options.delete_after_idle_duration"),
    ],
)
def test_what_no_engine_would_accept_is_refused_by_field(asked: NewSession, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        asked.check()
    assert caught.value.violations[0].field == f"open.new_session.{field}"


def test_labels_of_the_largest_size_are_accepted() -> None:
    replace(ASKED, session_id="a-1" + "0" * 61, labels={f"{index:063}": "x" * 255 for index in range(32)}).check()


def test_the_digest_tells_requests_apart_and_ignores_the_order_of_labels() -> None:
    first, second = replace(ASKED, labels={"a": "1", "b": "2"}), replace(ASKED, labels={"b": "2", "a": "1"})
    assert first.digest() == second.digest()
    others = [
        replace(first, system_prompt=""),
        replace(first, engine="x"),
        replace(first, labels={}),
        replace(first, options=SessionOptions(sink_tokens=1)),
    ]
    choices = [SessionOptions(template_variables={"a": True, "b": value}) for value in (1, 2)]
    others += [replace(first, options=options) for options in choices]
    turned = SessionOptions(template_variables={"b": 1, "a": True})
    assert replace(first, options=turned).digest() == others[-2].digest()
    assert len({asked.digest() for asked in (first, *others)}) == 7


def test_without_template_variables_the_digest_is_what_it_was_before_there_were_any() -> None:
    assert ASKED.digest().hex() == "cd6bfee09dce2edb04c6a9953f00fd665023fe2afdce0791b2e137d809de349a"
