"""Golden streams are judged by less than all there is, and never more strictly for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FailedPrecondition, Reason
from common.golden.golden import Golden, GoldenRows, GoldenStep, GoldenStream
from common.golden.judgement import check, divergence, judge, log_softmax, merged
from common.golden.rehearsal import Answer, rehearse
from common.window import Geometry
from tests.fakes.engine import FakeEngine

VOCABULARY = 9
STEP = GoldenStep(position=0, window=1, tokens=(5,))


def expecting(logits: npt.NDArray[np.floating], count: int) -> GoldenStep:
    likely = tuple(map(int, np.argsort(-logits)[:count]))
    known, others = merged(logits, likely)
    return STEP.model_copy(update={"likely": likely, "log_probabilities": tuple(known), "others": others})


@given(st.integers(0, 2**32 - 1), st.integers(1, VOCABULARY), st.sampled_from([1e-3, 1.0, 30.0]))
def test_what_is_merged_never_diverges_more_than_the_whole(seed: int, count: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    want = generator.standard_normal(VOCABULARY) * size
    got = (want + generator.standard_normal(VOCABULARY) * 0.1).astype(np.float32)
    whole = np.exp(log_softmax(want)) @ (log_softmax(want) - log_softmax(got))
    found = divergence(expecting(want, count), got)
    assert 0 <= found <= whole + 1e-12
    assert found == pytest.approx(whole, abs=1e-12) or count < VOCABULARY - 1
    assert divergence(expecting(want, count), want.astype(np.float32)) < 1e-6


def test_a_prediction_that_is_no_number_is_infinitely_off() -> None:
    want = np.arange(VOCABULARY, dtype=np.float32)
    assert divergence(expecting(want, 3), np.where(want == 0, np.nan, want).astype(np.float32)) == np.inf


LOGITS = np.arange(VOCABULARY, dtype=np.float32)
GOLDEN = Golden(
    tolerance=1e-6,
    channels=(0, 2),
    row_tolerances={1: 0.01},
    streams=(
        GoldenStream(
            sinks=1,
            steps=(expecting(LOGITS, 4), expecting(LOGITS, 4).model_copy(update={"position": 40})),
            kept=1,
            rows=(GoldenRows(layer=1, keys=((1.0, 2.0), (3.0, 4.0)), values=((0.0, 1.0), (1.0, 0.0))),),
        ),
    ),
)
KEYS = np.array([[[9, 9, 9]] * 2, [[1, 9, 2], [3, 9, 4]]], np.float32)
VALUES = np.array([[[9, 9, 9]] * 2, [[0, 9, 1], [1, 9, 0]]], np.float32)
RIGHT = Answer((LOGITS, LOGITS), KEYS, VALUES)


def test_an_answer_as_expected_has_all_the_room_there_is() -> None:
    check(figure := judge(GOLDEN, [RIGHT]), "demo@1")
    assert figure.margin > 1e6


def test_the_place_where_keys_are_off_is_told() -> None:
    wrong = replace(RIGHT, keys=KEYS + np.eye(3, dtype=np.float32)[2] * np.array([[[0]], [[1]]]) * [[0], [0.5]])
    with pytest.raises(FailedPrecondition, match="demo@1 does not compute here what it ought to") as caught:
        check(judge(GOLDEN, [wrong]), "demo@1")
    assert caught.value.reason is Reason.ENGINE_UNVERIFIED
    assert caught.value.metadata == {
        "engine": "demo@1",
        "figure": "the error of the keys of layer 1",
        "value": f"{0.5 / np.sqrt(30):.6g}",
        "bound": "0.01",
        "stream": "0",
        "position": "40",
        "expected": "4 in channel 2",
        "got": "4.5",
    }


def test_a_prediction_that_is_off_is_told_with_its_token() -> None:
    wrong = replace(RIGHT, logits=(LOGITS, LOGITS[::-1].copy()))
    figure = judge(GOLDEN, [wrong])
    assert (figure.what, figure.stream, figure.position) == ("the divergence of its predictions", 0, 40)
    assert figure.expected.startswith("token 8 with probability 0.63")
    assert figure.margin < 1


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_streams_are_fed_from_a_clean_slot_and_leave_it_clean(slots: int) -> None:
    """The fake's logits are a hash of all that its rows show: whatever was left would change them."""
    engine = FakeEngine(Geometry(sinks=2, window=8, chunk=4, slots=slots))
    steps = tuple(GoldenStep(position=place, window=4, tokens=(place,)) for place in range(6))
    streams = [GoldenStream(sinks=2, steps=steps), GoldenStream(sinks=1, steps=steps[:4])]
    first = rehearse(engine, streams)
    again = rehearse(engine, streams)
    alone = rehearse(FakeEngine(Geometry(sinks=2, window=8, chunk=4, slots=1)), streams)
    for one, other, third in zip(first, again, alone, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.logits, third.logits)
    assert [len(answer.logits) for answer in first] == [6, 4]
