"""What is told and asked: each thing once, at its distance, with one right answer."""

from __future__ import annotations

import pytest

from sinkserve.evaluation.forms import FORMS, FormName
from sinkserve.evaluation.recall.conversations import Ability, write_past
from sinkserve.evaluation.recall.material import THINGS
from sinkserve.evaluation.recall.plan import DISTANCES, Asked, Kind, Told, distances_up_to, write_plan
from sinkserve.evaluation.recall.teller import says

DISTANCES_OF_TEST = distances_up_to(50)


@pytest.mark.parametrize("form", FormName)
def test_every_question_is_about_something_told_as_long_before_as_it_says(form: FormName) -> None:
    plan = write_plan(FORMS[form], DISTANCES_OF_TEST, 6, 0)
    told = {step.name: step for step in plan if isinstance(step, Told) and step.name}
    asked = [step for step in plan if isinstance(step, Asked)]
    assert len(asked) == len(told) == 2 * 6 * len(DISTANCES_OF_TEST)
    for step in asked:
        assert told[step.name].time == pytest.approx(step.time - step.windows)
        assert says(told[step.name].said.user, step.value)
    assert [step.time for step in plan] == sorted(step.time for step in plan)
    assert min(step.time for step in plan) >= 0


def test_questions_are_asked_once_and_half_of_each_distance_recall() -> None:
    plan = write_plan(FORMS[FormName.CODES], DISTANCES_OF_TEST, 6, 0)
    asked = [step for step in plan if isinstance(step, Asked)]
    assert len({step.question for step in asked}) == len(asked)
    for distance in DISTANCES_OF_TEST:
        assert [step.recalls for step in asked if step.windows == distance].count(True) == 6
    assert {step.kind for step in asked} == set(Kind)
    assert (
        plan
        == write_plan(FORMS[FormName.CODES], DISTANCES_OF_TEST, 6, 0)
        != write_plan(FORMS[FormName.CODES], DISTANCES_OF_TEST, 6, 1)
    )


def test_what_was_changed_was_told_otherwise_before() -> None:
    plan = write_plan(FORMS[FormName.CODES], DISTANCES, 4, 0)
    changed = [step for step in plan if isinstance(step, Asked) and step.kind is Kind.UPDATE]
    assert changed
    for step in changed:
        earlier = [each for each in plan if isinstance(each, Told) and says(each.said.user, step.stale)]
        assert step.stale != step.value
        assert any(each.time < step.time - step.windows for each in earlier)


def test_conversations_tell_correct_or_leave_out_what_is_asked() -> None:
    past = write_past(40, 0)
    assert len(past.conversations) == 40
    assert len(past.questions) == len(THINGS)
    said = [" ".join(exchange.user for exchange in conversation) for conversation in past.conversations]
    for question in past.questions:
        subject = question.asked.removeprefix("what is my ").removesuffix(" called?").removesuffix("?")
        mentioned = [index for index, text in enumerate(said) if f"my {subject} is" in text]
        if question.ability is Ability.ABSTENTION:
            assert (mentioned, question.told_in) == ([], None)
        else:
            assert mentioned[-1] == question.told_in
            assert says(said[mentioned[-1]], question.value)
            assert len(mentioned) == (2 if question.ability is Ability.UPDATE else 1)
    assert {question.ability for question in past.questions} == set(Ability)


@pytest.mark.parametrize(
    ("reply", "right"),
    [("The code in line 4 is 42.", True), ("the code is 142.", False), ("it is 42", True), ("", False)],
)
def test_a_reply_says_a_value_as_a_word_of_its_own(reply: str, *, right: bool) -> None:
    assert says(reply, "42") is right
