"""A change of basis is undone by its transpose, and leaves no number standing out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.model.basis import AT_RUN_TIME, mixing, mixing_fast


@given(st.integers(1, 300))
def test_it_is_orthogonal(width: int) -> None:
    matrix = mixing(width).matrix().astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-6)


@pytest.mark.parametrize("width", [1, 64, 80, 96, 576, 896])
def test_rows_are_multiplied_by_its_matrix_width_by_width(width: int) -> None:
    basis = mixing(width)
    rows = np.random.default_rng(0).standard_normal((3, 2 * width))
    expected = (rows.reshape(3, 2, width) @ basis.matrix()).reshape(rows.shape)
    np.testing.assert_allclose(basis.turn(rows), expected, atol=1e-5)


@pytest.mark.parametrize("width", [64, 80, 96, 576, 896, 2048])
def test_one_large_number_becomes_many_small_ones(width: int) -> None:
    assert np.abs(mixing(width).matrix()).max() * np.sqrt(width) < 2


def test_the_same_width_has_the_same_basis() -> None:
    np.testing.assert_array_equal(mixing(96).matrix(), mixing(96).matrix())


@given(st.integers(1, 5000))
def test_a_fast_one_mixes_whole_groups_of_a_row(width: int) -> None:
    basis = mixing_fast(width)
    if basis is None:
        assert width % 2
        return
    assert width % basis.width == 0
    assert basis.width <= AT_RUN_TIME
    np.testing.assert_allclose(np.abs(basis.matrix()), basis.width**-0.5, rtol=1e-6)
