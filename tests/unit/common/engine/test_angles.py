"""Angles against decimal arithmetic, near and far."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.angles import Angles
from common.spec.manifest import Rope

TWO_PI = Decimal("6.28318530717958647692528676655900576839433879875021164194988918461563281257241799")
FREQUENCIES = tuple(float(np.float32(10000.0 ** (-i / 32))) for i in range(32))
ROUNDING = 2.0**-24  # half a unit of float32 below 1


def exact(position: int, frequency: float) -> tuple[float, float]:
    """Cosine and sine of a product that is reduced in 80 digits."""
    with localcontext() as context:
        context.prec = 80
        reduced = float((Decimal(position) * Decimal(frequency)) % TWO_PI)
    return math.cos(reduced), math.sin(reduced)


def written(positions: list[int], rope: Rope) -> tuple[np.ndarray, np.ndarray]:
    angles = Angles.of(rope)
    cos, sin = (np.empty((len(positions), len(angles.inverse_frequencies)), np.float32) for _ in range(2))
    angles.write(np.array(positions, np.int64), cos, sin)
    return cos, sin


@given(position=st.integers(0, 2**29 - 1))
def test_angles_are_exact_to_the_rounding_of_float32_at_any_position(position: int) -> None:
    cos, sin = written([position], Rope(inverse_frequencies=FREQUENCIES))
    for i, frequency in enumerate(FREQUENCIES):
        true_cos, true_sin = exact(position, frequency)
        assert abs(float(cos[0, i]) - true_cos) <= ROUNDING
        assert abs(float(sin[0, i]) - true_sin) <= ROUNDING


@given(far=st.integers(0, 2**29 - 2000), distance=st.integers(0, 1024))
def test_two_tokens_differ_by_their_distance_alone_however_far_they_are(far: int, distance: int) -> None:
    cos, sin = written([far, far + distance, distance], Rope(inverse_frequencies=FREQUENCIES))
    turned = cos[1].astype(float) * cos[0] + sin[1].astype(float) * sin[0]  # cosine of the difference
    assert np.abs(turned - cos[2]).max() <= 6 * ROUNDING


def test_frequencies_are_rounded_to_float32_before_they_are_used() -> None:
    third = 1 / 3
    cos, _ = written([10_000_000], Rope(inverse_frequencies=(third,)))
    assert float(cos[0, 0]) == pytest.approx(math.cos(10_000_000 * float(np.float32(third))), abs=ROUNDING)
    assert float(cos[0, 0]) != pytest.approx(math.cos(10_000_000 * third), abs=1e-3)


def test_angles_of_local_layers_follow_with_their_own_scale() -> None:
    both = Rope(inverse_frequencies=(1.0, 0.5), attention_scale=2.0, local_inverse_frequencies=(0.25, 0.125))
    found = written([3], both)
    for part, rope in ((slice(2), both), (slice(2, 4), Rope(inverse_frequencies=(0.25, 0.125)))):
        alone = written([3], rope.model_copy(update={"local_inverse_frequencies": ()}))
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one[..., part], other)


def test_the_attention_scale_multiplies_both() -> None:
    plain = written([3], Rope(inverse_frequencies=FREQUENCIES))
    scaled = written([3], Rope(inverse_frequencies=FREQUENCIES, attention_scale=1.25))
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(b, a * 1.25, rtol=1e-6, atol=1e-7)


def test_shapes_follow_the_positions() -> None:
    angles = Angles.of(Rope(inverse_frequencies=(1.0, 0.5)))
    cos, sin = np.empty((2, 3, 2), np.float32), np.empty((2, 3, 2), np.float32)
    angles.write(np.arange(6).reshape(2, 3), cos, sin)
    np.testing.assert_allclose(cos[1, 2], np.cos([5.0, 2.5]), rtol=1e-6)
    np.testing.assert_allclose(sin[0, 1], np.sin([1.0, 0.5]), rtol=1e-6)
