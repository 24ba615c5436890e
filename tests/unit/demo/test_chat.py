"""The question that the demo ends with: only its first turn has the answer, and the demo falls short without it."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import islice

from demo.chat import ASKED_LAST, LEAST_OVERFLOWS, SEED, TOLD_FIRST, Exchange, Story
from demo.dialogues import Turn, conversation
from sinkserve.client import Finished, FinishReason, Timing, Usage

WINDOW = 252


def _exchange(asked: Turn, reply: str, position: int) -> Exchange:
    usage = Usage(prompt_tokens=9, generated_tokens=9, position=position, evicted_tokens=0)
    return Exchange(asked, reply, Finished(FinishReason.STOP, usage, Timing(0.0, 0.0, 0.0, 0.0)))


def test_nobody_speaks_in_between_of_what_is_asked_last() -> None:
    (subject,) = re.findall(r"my (\w+) called", ASKED_LAST.user)
    assert subject in TOLD_FIRST.user
    script = islice(conversation(random.Random(SEED), noise=0), 340)
    assert not [turn.user for turn in script if re.search(rf"\b{subject}\b", turn.user)]


def test_a_demo_that_does_not_recall_its_first_turn_fell_short() -> None:
    story = Story(WINDOW, 100.0, memory_at_end_mib=100.0)
    story.told_first = _exchange(TOLD_FIRST, TOLD_FIRST.assistant, 20)
    story.asked_last = _exchange(ASKED_LAST, ASKED_LAST.assistant, 20 + LEAST_OVERFLOWS * WINDOW)
    assert not [each for each in story.shortcomings() if "was not recalled" in each]
    story.asked_last = replace(story.asked_last, reply="Your dog is called Leo.")
    assert "what was said 20.0 windows before was not recalled" in list(story.shortcomings())
    story.asked_last = _exchange(ASKED_LAST, ASKED_LAST.assistant, 20 + 3 * WINDOW)
    assert "what was said 3.0 windows before was not recalled" in list(story.shortcomings())
