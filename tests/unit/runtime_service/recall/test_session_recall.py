"""Which turns are read again, without a database: budgets, pins, rankers, and a first turn that begins otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.spec.manifest import TurnTemplate
from common.window import Geometry
from runtime_service.decoding.text import Text
from runtime_service.domain.durability import Durability
from runtime_service.domain.recall import Recall, Span
from runtime_service.domain.session import Session, SessionOptions
from runtime_service.domain.turn import Turn, TurnInput, TurnRequest
from runtime_service.recall.budget import recalls
from runtime_service.recall.own_tokens import indexed, own_tokens
from runtime_service.recall.ranking import Candidate, Ranker, by_words
from runtime_service.recall.session_recall import SessionRecall
from runtime_service.recall.words import asked_words
from runtime_service.storage.recall.index import Entry, Found, Word
from runtime_service.storage.recall.newest import packed
from runtime_service.storage.rows import pack
from tests.samples.session_examples import SESSION, finished, turn
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import TEMPLATE, make_manifest

OPTIONS = SessionOptions(sink_tokens=4, window_tokens=64, durability=Durability.TOKENS, recall_tokens=16)
ASKED = TurnRequest("q", TurnInput(text="it"))


def text_with(template: TurnTemplate = TEMPLATE) -> Text:
    return Text(byte_level(), make_manifest(Geometry(4, 64, 8, 4), vocabulary=450, template=template))


TEXT = text_with()


class Memory:
    """Turns of ten tokens each, the first behind two of the opening; all have the word that is asked for."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.turns: list[tuple[Turn, list[int]]] = []
        position = 2
        for number, size in enumerate(sizes, 1):
            position += size
            self.turns.append(
                (finished(turn(number), 3, (7,), position), [100 * number + each for each in range(size)])
            )
        self.position = position

    @contextmanager
    def reading(self, _session: Session) -> Iterator[Memory]:
        yield self

    def search(self, words: Collection[int], before: int) -> Found:
        numbers = tuple(past.number for past, _ in self.turns)
        gone = max((past.number for past, added in self.turns if _start(past, added) < before), default=0)
        return Found(gone, tuple(Word(word, len(numbers), packed(*numbers[::-1])) for word in words) if gone else ())

    def entries(self, numbers: Collection[int]) -> list[Entry]:
        it = asked_words(["it"])
        return [
            Entry(past.number, _start(past, added), len(added), pack((past.number, *it, -past.number)))
            for past, added in self.turns
            if past.number in numbers
        ]

    def read(self, _session: Session, numbers: Collection[int]) -> list[tuple[Turn, list[int]]]:
        return [item for item in self.turns if item[0].number in numbers]

    def tokens(self, _session: Session, numbers: Collection[int]) -> dict[int, tuple[str, list[int]]]:
        return {past.number: (past.turn_id, added) for past, added in self.turns if past.number in numbers}

    def read_named(self, _session: Session, turn_ids: Collection[str]) -> list[tuple[Turn, list[int]]]:
        return [item for item in self.turns if item[0].turn_id in turn_ids]

    def results(self, _session: Session, _since: int) -> list[Any]:
        return []


def _start(past: Turn, added: list[int]) -> int:
    assert past.result is not None
    return past.result.usage.position - len(added)


def chosen(
    memory: Memory, request: TurnRequest = ASKED, ranker: Ranker = by_words, prompt: int = 5, **session: Any
) -> list[int]:
    asked = replace(SESSION, **{"options": OPTIONS, "position": memory.position, **session})
    found = SessionRecall(cast("Any", memory), cast("Any", memory), ranker).choose(asked, request, TEXT, prompt)
    assert found.tokens == tuple(token for each in found.turns for token in memory.turns[each.number - 1][1])
    return [each.number for each in found.turns]


def test_the_newest_that_left_are_taken_as_long_as_they_fit_in_their_old_order() -> None:
    assert chosen(Memory([8] * 12)) == [6, 7]


def test_one_that_does_not_fit_is_left_out_for_the_next() -> None:
    assert chosen(Memory([*[8] * 5, 9, *[8] * 6])) == [5, 7]


def test_what_the_prompt_leaves_no_room_for_is_not_recalled() -> None:
    assert chosen(Memory([8] * 12), prompt=64) == []
    assert chosen(Memory([8] * 12), prompt=50) == [12]


def test_a_ranker_of_ones_own_puts_them_in_order_and_may_read_what_was_said() -> None:
    heard: list[str] = []

    def oldest(asked: str, candidates: Sequence[Candidate], said: Any) -> Sequence[Candidate]:
        heard.extend([asked, *said()])
        return sorted(candidates, key=lambda each: each.span.number)

    assert chosen(Memory([8] * 12), ranker=oldest) == [1, 2]
    assert heard == ["it", *["hi\nhello"] * 7]


@pytest.mark.parametrize("made_up", [False, True])
def test_a_ranker_that_fails_or_makes_turns_up_ends_nothing(*, made_up: bool) -> None:
    def wrong(asked: str, candidates: Sequence[Candidate], said: Any) -> Sequence[Candidate]:
        if made_up:
            return [Candidate(Span(99, 0, 1), 1.0)]
        raise ValueError(asked)

    assert chosen(Memory([8] * 12), ranker=wrong) == ([] if made_up else [6, 7])


def test_pins_come_besides_what_is_found_and_named_ones_instead() -> None:
    memory = Memory([8] * 12)
    pins = tuple(past for item, added in memory.turns[:1] if (past := item.past(len(added))))
    assert chosen(memory, pins=pins) == [1, 7, 8]
    assert chosen(memory, replace(ASKED, recall=Recall(tokens=0)), pins=pins) == [1]
    assert chosen(memory, replace(ASKED, recall=Recall(turn_ids=("t3", "t12"))), pins=pins) == [1, 3]


def test_a_turn_without_a_reply_recalls_only_what_it_asks_for() -> None:
    silent = replace(ASKED, no_reply=True)
    assert chosen(Memory([8] * 12), silent) == []
    assert chosen(Memory([8] * 12), replace(silent, recall=Recall(tokens=16))) == [6, 7]
    assert chosen(Memory([8] * 12), replace(silent, recall=Recall(turn_ids=("t3",)))) == [3]


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(1, 70), st.integers(0, 16))
def test_what_is_recalled_fits_and_had_left(sizes: list[int], prompt: int, budget: int) -> None:
    memory = Memory(sizes)
    numbers = chosen(memory, prompt=prompt, options=replace(OPTIONS, recall_tokens=budget))
    tokens = sum(sizes[number - 1] for number in numbers)
    assert tokens <= min(budget, max(0, 64 - prompt))
    assert numbers == sorted(set(numbers))
    for number in numbers:
        past, added = memory.turns[number - 1]
        assert _start(past, added) < memory.position + prompt + budget - 64


def test_nothing_is_looked_for_where_nothing_can_be_recalled() -> None:
    off = replace(SESSION, options=replace(OPTIONS, recall_tokens=0))
    assert not recalls(off, ASKED)
    assert recalls(replace(SESSION, options=OPTIONS), ASKED)
    assert not recalls(replace(SESSION, options=OPTIONS), replace(ASKED, recall=Recall(tokens=0)))
    assert recalls(off, replace(ASKED, recall=Recall(turn_ids=("t1",))))
    assert not recalls(replace(SESSION, options=replace(OPTIONS, durability=Durability.NONE)), ASKED)


def test_a_first_turn_that_begins_otherwise_is_wrapped_as_any_other() -> None:
    text = text_with(TEMPLATE.model_copy(update={"first_user_before": (9, 9)}))
    first = replace(turn(1), request=TurnRequest("t1", TurnInput(text="hi")))
    session = replace(SESSION, opening=text.opening(), options=OPTIONS)
    prompt = (*text.first([], session.opening), 9, 9)
    added = [*prompt, 50, 51, 52]
    done = finished(first, len(prompt), (50, 51), len(session.opening) + len(added))
    assert own_tokens(done, added, session, text) == (*text.user("hi"), *text.assistant_before, 50, 51, 52)
    later = finished(first, len(prompt), (50, 51), 100)
    assert own_tokens(later, added, session, text) == tuple(added)


def test_what_was_not_read_as_a_whole_is_not_found() -> None:
    done = finished(turn(1), 6, (7, 8), 20)
    assert done.result is not None
    assert indexed(done, 9, TEXT) is not None
    assert indexed(done, 0, TEXT) is None
    cut = replace(done, result=replace(done.result, usage=replace(done.result.usage, prompt_tokens=5)))
    assert indexed(cut, 9, TEXT) is None
    silent = replace(turn(1, token_ids=(1,)), result=replace(done.result, text=""))
    assert indexed(silent, 9, TEXT) is None
