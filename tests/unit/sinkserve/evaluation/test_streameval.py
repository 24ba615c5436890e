"""StreamEval: where facts and answers are, and accuracy over a model that knows exactly what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.engine import Feed, FloatArray
from common.window import Geometry, SessionWindow, held_positions
from runtime_service.decoding.text import Text
from sinkserve.evaluation import streameval
from sinkserve.evaluation.forms import FORMS, Form, FormName
from sinkserve.evaluation.questions import Question, Script, value_tokens, write_script
from sinkserve.evaluation.streameval import distances_of, measure_streameval, windows_of
from tests.fakes.engine import FakeEngine
from tests.samples import vocabularies
from tests.samples.whole_manifests import TEMPLATE, make_manifest
from tests.unit.sinkserve.evaluation.bench import VOCABULARY, FakeBench, Tracked

GEOMETRY = Geometry(2, 10, 4, 2)
CODES = FORMS[FormName.CODES]


def text_of(vocabulary: bytes) -> Text:
    return Text(vocabulary, make_manifest(GEOMETRY, vocabulary=VOCABULARY, template=TEMPLATE))


TEXT = text_of(vocabularies.byte_level())


def said(script: Script, first: int, last: int) -> str:
    return b"".join(TEXT.token_bytes(token) for token in script.tokens[first:last]).decode()


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_facts_and_values_are_where_a_script_says(form: Form) -> None:
    script = write_script(TEXT, form, (1, 2, 5), 2000, seed=3)
    assert len(script.tokens) == 2000
    assert len(script.questions) > 8
    for question in script.questions:
        fact = said(script, *question.fact)
        reply = said(script, question.reply, question.value[1])
        line = fact.partition("line ")[2].partition(":")[0]
        assert f"line {line} is" in reply
        value = said(script, *question.value).strip("<> .")
        assert f" {value}." in fact or f"<{value}>" in fact
        assert question.fact[1] <= question.reply < question.value[0]
        assert script.tokens[question.reply - 1] == vocabularies.ASSISTANT


def test_no_line_is_asked_for_twice_and_only_at_the_distances_wanted() -> None:
    script = write_script(TEXT, CODES, (1, 4), 4000, seed=1)
    facts = [question.fact for question in script.questions]
    assert len(set(facts)) == len(facts)
    assert {question.back for question in script.questions} == {1, 4}


def test_another_seed_is_another_script_and_the_same_seed_the_same() -> None:
    first, again, other = (write_script(TEXT, CODES, (1,), 300, seed).tokens for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    "vocabulary", [vocabularies.byte_level(), vocabularies.sentencepiece(), vocabularies.unigram()]
)
@given(value=st.integers(0, 50_000))
def test_the_tokens_of_a_value_hold_its_digits_and_nothing_before_them(vocabulary: bytes, value: int) -> None:
    text = text_of(vocabulary)
    tokens = text.encode(f"The code is <{value}>.")
    first, last = value_tokens(text, tokens, "The code is <", str(value))
    assert str(value) in b"".join(text.token_bytes(token) for token in tokens[first:last]).decode()
    assert str(value)[0] not in b"".join(text.token_bytes(token) for token in tokens[:first]).decode()


@given(st.integers(0, 4), st.integers(1, 60), st.integers(0, 40))
def test_what_a_question_sees_is_what_the_window_holds_at_each_token_of_its_reply(
    sinks: int, window: int, start: int
) -> None:
    question = Question(1, (start, start + 6), start + 20, (start + 24, start + 26))
    held = [
        {position for part in held_positions(SessionWindow(sinks, window), query) for position in part}
        for query in range(question.reply - 1, question.value[1] - 1)
    ]
    fact = set(range(*question.fact))
    whole, none = all(fact <= seen for seen in held), not any(fact & seen for seen in held)
    if question.fact[0] >= sinks or question.fact[1] <= sinks:
        assert question.sees(sinks, window) is (True if whole else False if none else None)


class Oracle(FakeEngine):
    """Knows its scripts and says what comes next, but a value only while the whole fact is in view."""

    scripts: Sequence[Script] = ()

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        assert all(feed.wanted == len(feed.tokens) for feed in feeds)
        each = [replace(feed, position=feed.position + index) for feed in feeds for index in range(len(feed.tokens))]
        logits = np.zeros((len(each), VOCABULARY), np.float32)
        for row, feed in zip(logits, each, strict=True):
            script = self._script(feed)
            if feed.position + 1 < len(script.tokens):
                row[script.tokens[feed.position + 1]] = 0.0 if self._forgets(script, feed) else 1.0
        return logits

    def _script(self, feed: Feed) -> Script:
        return self.scripts[feed.slot]

    def _forgets(self, script: Script, feed: Feed) -> bool:
        asked = [item for item in script.questions if item.value[0] <= feed.position + 1 < item.value[1]]
        return any(item.fact[0] <= feed.position - feed.window.window for item in asked)


def test_a_model_that_knows_what_it_sees_is_right_inside_and_never_beyond() -> None:
    geometry = Geometry(4, 252, 16, 2)
    bench = FakeBench(geometry, lambda geometry: Oracle(geometry, vocabulary=VOCABULARY))
    length = 8 * bench.capacity
    distances = distances_of(bench, CODES)
    Oracle.scripts = [write_script(bench.text, CODES, distances, length, seed) for seed in range(2)]
    track = Tracked()
    found = measure_streameval(bench, CODES, "codes", streams=2, tokens=length, track=track)
    assert [column.name for column in found.columns] == ["4+60", "4+124", "4+252", "0+252"]
    for column in found.columns:
        assert column.inside.right == column.inside.asked
        assert (column.beyond.right, column.beyond.value_right) == (0, 0)
        assert column.beyond.asked > 0
        parts = (column.inside, column.at_the_edge, column.beyond)
        assert sum(part.asked for part in parts) == sum(part.asked for part in column.by_distance)
    assert found.columns[2].inside.asked > found.columns[1].inside.asked
    assert track.is_complete
    assert not bench.made


def test_only_questions_after_the_cache_has_overflowed_count() -> None:
    bench = FakeBench(Geometry(4, 252, 16, 1), lambda geometry: Oracle(geometry, vocabulary=VOCABULARY))
    Oracle.scripts = [write_script(bench.text, CODES, distances_of(bench, CODES), 1024, 0)]
    late = [item for item in Oracle.scripts[0].questions if item.fact[0] >= streameval.SETTLED * 256]
    found = measure_streameval(bench, CODES, "codes", streams=1, tokens=1024, track=Tracked())
    assert 0 < sum(part.asked for part in found.columns[0].by_distance) == len(late) < len(Oracle.scripts[0].questions)


def test_distances_grow_with_the_window_and_stay_below_where_numbers_are_used_again() -> None:
    small, large = (distances_of(FakeBench(Geometry(4, window, 16, 1)), CODES) for window in (252, 40_000))
    assert max(small) > 2
    assert all(back < CODES.lines for back in (*small, *large))
    assert all(first < second for first, second in pairwise(small))


def test_an_engine_without_sinks_is_asked_with_its_window_alone() -> None:
    assert windows_of(FakeBench(Geometry(0, 100, 4, 1))) == tuple(SessionWindow(0, size) for size in (25, 50, 100))
