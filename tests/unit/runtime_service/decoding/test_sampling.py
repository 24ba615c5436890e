from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime_service.decoding.sampling import candidates, largest, sample, uniform
from runtime_service.domain.options import GenerationOptions

Logits = npt.NDArray[np.float32]


def options(**changes: Any) -> GenerationOptions:
    return GenerationOptions(**{"max_new_tokens": 1, **changes})


def logits_of(probabilities: list[float]) -> Logits:
    return np.log(np.array(probabilities, np.float32))


def allowed(logits: Logits, **changes: Any) -> dict[int, float]:
    tokens, probabilities = candidates(logits, options(**changes))
    return dict(zip(tokens.tolist(), probabilities.tolist(), strict=True))


LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
TIED = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]))


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert sample(np.array([0, 3, 1, 3], np.float32), options(temperature=0.0), 5, {}).token_id == 1


def test_greedy_has_no_logprobs_unless_asked() -> None:
    assert sample(np.zeros(4, np.float32), options(temperature=0.0), 0, {}).logprob is None


@given(LOGITS, st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_the_same_arguments_give_the_same_token(logits: Logits, seed: int, position: int) -> None:
    chosen = options(seed=seed, temperature=1.3)
    before = logits.copy()
    assert sample(logits, chosen, position, {}) == sample(logits.copy(), chosen, position, {})
    np.testing.assert_array_equal(logits, before)


def test_seed_and_position_both_matter() -> None:
    draws = {uniform(seed, position) for seed in range(50) for position in range(50)}
    assert len(draws) == 2500
    assert all(0 <= draw < 1 for draw in draws)


def test_draws_stay_what_they_are() -> None:
    """A turn that starts again after a crash, on another release, has to say the same."""
    assert [uniform(1, 0), uniform(1, 1), uniform(2**64 - 1, 10**12)] == [
        0.3035680343067586,
        0.35811448402596147,
        0.5394309253608104,
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = logits_of([0.5, 0.25, 0.15, 0.1])
    chosen = options(temperature=temperature, seed=3)
    count = 5_000
    seen = Counter(sample(logits, chosen, position, {}).token_id for position in range(count))
    for token, probability in enumerate(softmax(logits, temperature)):
        deviation = np.sqrt(probability * (1 - probability) / count)
        assert abs(seen[token] / count - probability) < 4 * deviation


def test_draws_follow_the_distribution_that_truncation_leaves() -> None:
    chosen = options(top_k=3, top_p=0.8, seed=11)  # 0.4 and 0.3 are less than 0.8 of 0.9
    logits = logits_of([0.1, 0.2, 0.3, 0.4])
    count = 5_000
    seen = Counter(sample(logits, chosen, position, {}).token_id for position in range(count))
    assert set(seen) == {1, 2, 3}
    for token, probability in {1: 2 / 9, 2: 3 / 9, 3: 4 / 9}.items():
        assert abs(seen[token] / count - probability) < 0.03


def test_top_k_keeps_exactly_k_and_lower_ids_among_equals() -> None:
    assert list(allowed(np.array([1, 5, 1, 1, 5], np.float32), top_k=3)) == [1, 4, 0]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert len(allowed(np.zeros(4, np.float32), top_k=100)) == 4


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = logits_of([0.1, 0.4, 0.2, 0.3])
    assert list(allowed(logits, top_p=0.39)) == [1]
    assert list(allowed(logits, top_p=0.41)) == [1, 3]
    assert list(allowed(logits, top_p=0.71)) == [1, 3, 2]
    assert len(allowed(logits, top_p=0.95)) == 4


def test_top_p_sees_what_top_k_left() -> None:
    logits = logits_of([0.4, 0.3, 0.2, 0.1])
    assert list(allowed(logits, top_k=2, top_p=0.5)) == [0]  # 0.4 / 0.7 is enough


def test_min_p_compares_with_the_likeliest() -> None:
    logits = logits_of([0.5, 0.26, 0.24])
    assert list(allowed(logits, min_p=0.5)) == [0, 1]
    assert list(allowed(logits, min_p=1.0)) == [0]
    assert len(allowed(logits, min_p=0.0)) == 3


def test_temperature_goes_before_truncation() -> None:
    logits = logits_of([0.6, 0.4])
    assert list(allowed(logits, top_p=0.65)) == [0, 1]
    assert list(allowed(logits, top_p=0.65, temperature=0.5)) == [0]


def test_the_smallest_temperature_is_greedy_and_finite() -> None:
    assert allowed(np.array([1, 3, 2], np.float32), temperature=1e-45)[1] == 1


@given(LOGITS, st.integers(0, 50), st.floats(0.01, 1), st.floats(0, 1), st.floats(0.1, 10))
def test_truncation_by_its_definition(
    logits: Logits, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    probabilities = softmax(logits, temperature)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: top_k or None]
    reached, total = np.cumsum(probabilities[order]), probabilities[order].sum()
    margin = 1e-9  # sums may be rounded either way at the border
    least = int(np.sum(reached < top_p * total * (1 - margin))) + 1
    most = int(np.sum(reached < top_p * total * (1 + margin))) + 1
    kept = allowed(logits, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    for size, test in ((least, set.issubset), (most, set.issuperset)):
        factor = 1 + margin if test is set.issubset else 1 - margin
        exact = {one for one in order[:size] if probabilities[one] >= min_p * probabilities[order[0]] * factor}
        assert test(exact | {order[0]}, set(kept))
    assert sum(kept.values()) == pytest.approx(1)


def test_a_wide_nucleus_is_found_whole() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.1, 30_000).astype(np.float32)
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    needed = int(np.searchsorted(np.cumsum(probabilities[order]), 0.9)) + 1
    assert abs(len(allowed(logits, top_p=0.9)) - needed) <= 1


@given(TIED | LOGITS, st.integers(0, 40))
def test_the_largest_are_the_first_of_a_stable_sort(scores: Logits, count: int) -> None:
    expected = np.argsort(-scores.astype(np.float64), kind="stable")[:count]
    assert largest(scores, count).tolist() == expected.tolist()
    assert largest(scores.astype(np.float64), count).tolist() == expected.tolist()


def penalized(logits: list[float], context: dict[int, int], **changes: Any) -> npt.NDArray[np.float64]:
    """Scores that penalties leave, up to a constant, read off the probabilities."""
    from runtime_service.decoding import sampling

    raw = np.array(logits, np.float32)
    return np.asarray(sampling._penalized(raw, options(**changes), context), np.float64)


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    scores = penalized([2.0, -2.0, 0.0, 3.0], {0: 1, 1: 7, 2: 2}, repetition_penalty=2.0)
    assert scores.tolist() == [1.0, -4.0, 0.0, 3.0]


def test_presence_counts_once_and_frequency_each_time() -> None:
    scores = penalized([1.0, 1.0, 1.0], {0: 1, 1: 3}, presence_penalty=0.5, frequency_penalty=0.25)
    assert scores.tolist() == [0.25, -0.25, 1.0]


def test_the_repetition_penalty_goes_before_the_others() -> None:
    assert penalized([4.0], {0: 1}, repetition_penalty=2.0, presence_penalty=1.0).tolist() == [1.0]


def test_negative_penalties_favour_what_was_said() -> None:
    logits = np.array([0.0, 0.5], np.float32)
    greedy = options(temperature=0.0, presence_penalty=-1.0)
    assert sample(logits, greedy, 0, {0: 1}).token_id == 0


@given(LOGITS, st.dictionaries(st.integers(0, 39), st.integers(1, 9)))
def test_penalties_touch_only_tokens_of_the_context(logits: Logits, counts: dict[int, int]) -> None:
    context = {token: count for token, count in counts.items() if token < len(logits)}
    scores = penalized(logits.tolist(), context, repetition_penalty=1.5, frequency_penalty=1.0)
    others = [token for token in range(len(logits)) if token not in context]
    np.testing.assert_array_equal(scores[others], logits[others].astype(np.float64))


@given(LOGITS, st.integers(0, 20))
def test_logprobs_are_those_of_the_raw_logits(logits: Logits, count: int) -> None:
    chosen = options(logprobs=count, temperature=0.3, top_k=3, repetition_penalty=3.0)
    sampled = sample(logits, chosen, 1, dict.fromkeys(range(len(logits)), 2))
    expected = np.log(softmax(logits))
    assert sampled.logprob == pytest.approx(expected[sampled.token_id], abs=1e-6)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:count]
    assert [token for token, _ in sampled.top] == order
    assert [logprob for _, logprob in sampled.top] == pytest.approx(expected[order].tolist(), abs=1e-6)


def test_asking_for_logprobs_changes_no_token() -> None:
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)
    for position in range(50):
        plain, with_them = (sample(logits, options(seed=9, logprobs=n), position, {}) for n in (None, 5))
        assert plain.token_id == with_them.token_id


def test_a_vocabulary_of_one_token_works() -> None:
    sampled = sample(np.array([3.0], np.float32), options(top_k=5, top_p=0.1, min_p=1.0, logprobs=20), 0, {0: 1})
    assert (sampled.token_id, sampled.logprob, sampled.top) == (0, 0.0, ((0, 0.0),))


@given(LOGITS, st.integers(0, 1 << 40), st.sampled_from([0.0, 0.7, 1.0]), st.data())
def test_only_what_is_allowed_is_sampled_as_if_there_were_nothing_else(
    logits: Logits, seed: int, temperature: float, data: st.DataObject
) -> None:
    some = np.array(sorted(data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1))))
    asked = options(temperature=temperature, seed=seed, logprobs=1)
    found = sample(logits, asked, 7, {}, some)
    alone = sample(logits[some], asked, 7, {})
    assert found.token_id == some[alone.token_id]
    assert found.top == sample(logits, asked, 7, {}).top  # log-probabilities are the model's
