from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from builder_service.model.rope import compute_rope, read_rope_config
from builder_service.model.rope_config import RopeConfig
from common.errors import InvalidArgument, Reason

DIM, LONGEST = 64, 2048
HALF = DIM // 2
EXPONENTS = np.arange(0, DIM, 2) / DIM
PLAIN = 10_000.0**-EXPONENTS
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 1024,
    "short_factor": [1.0] * HALF,
    "long_factor": [2.0] * HALF,
}


def _config(scaling: dict[str, Any] | None = None, **fields: Any) -> RopeConfig:
    return read_rope_config({"rope_scaling": scaling, **fields}, DIM, LONGEST)


def _frequencies(scaling: dict[str, Any] | None = None, tokens: int = 512, **fields: Any) -> np.ndarray:
    return np.array(compute_rope(_config(scaling, **fields), tokens).inverse_frequencies)


def test_default_frequencies_fall_by_theta() -> None:
    np.testing.assert_allclose(_frequencies(), PLAIN, rtol=2e-7)
    np.testing.assert_allclose(_frequencies(rope_theta=500_000.0), 500_000.0**-EXPONENTS, rtol=2e-7)


def test_both_spellings_of_the_config_are_read() -> None:
    old = read_rope_config({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, DIM, LONGEST)
    new = read_rope_config({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}, DIM, LONGEST)
    assert compute_rope(old, 100) == compute_rope(new, 100)


def test_frequencies_are_float32_numbers() -> None:
    for frequency in compute_rope(_config(), 1).inverse_frequencies:
        assert frequency == float(np.float32(frequency))


def test_linear_divides_by_the_factor() -> None:
    np.testing.assert_allclose(_frequencies({"type": "linear", "factor": 4.0}), PLAIN / 4, rtol=2e-7)


def test_dynamic_is_plain_up_to_the_trained_length_and_slower_beyond_it() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    np.testing.assert_allclose(_frequencies(scaling, LONGEST), PLAIN, rtol=2e-7)
    base = 10_000 * (2 * 3000 / LONGEST - 1) ** (DIM / (DIM - 2))
    np.testing.assert_allclose(_frequencies(scaling, 3000), base**-EXPONENTS, rtol=1e-6)


def test_yarn_keeps_fast_dimensions_and_divides_slow_ones() -> None:
    scaling = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256}
    frequencies = _frequencies(scaling)
    np.testing.assert_allclose(frequencies[0], PLAIN[0], rtol=2e-7)
    np.testing.assert_allclose(frequencies[-1], PLAIN[-1] / 16, rtol=1e-6)
    assert (frequencies <= PLAIN * (1 + 1e-6)).all()
    assert (frequencies >= PLAIN / 16 * (1 - 1e-6)).all()


def test_yarn_scales_attention_by_the_logarithm_of_the_factor_unless_told() -> None:
    yarn = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256}
    assert compute_rope(_config(yarn), 1).attention_scale == pytest.approx(0.1 * math.log(16) + 1)
    assert compute_rope(_config(yarn | {"attention_factor": 1.5}), 1).attention_scale == 1.5
    both = yarn | {"mscale": 1.0, "mscale_all_dim": 0.5}
    assert compute_rope(_config(both), 1).attention_scale == pytest.approx(
        (0.1 * math.log(16) + 1) / (0.05 * math.log(16) + 1)
    )
    assert compute_rope(_config(yarn | {"factor": 1.0}), 1).attention_scale == 1.0


def test_longrope_takes_the_long_factors_only_beyond_the_original_length() -> None:
    np.testing.assert_allclose(_frequencies(LONGROPE, 1024), PLAIN, rtol=2e-7)
    np.testing.assert_allclose(_frequencies(LONGROPE, 1025), PLAIN / 2, rtol=2e-7)
    scale = compute_rope(_config(LONGROPE), 1).attention_scale
    assert scale == pytest.approx(math.sqrt(1 + math.log(2) / math.log(1024)))


def test_llama3_keeps_short_wavelengths_and_divides_long_ones() -> None:
    frequencies = _frequencies(LLAMA3)
    wavelengths = 2 * math.pi / PLAIN
    short, long = wavelengths < 1024 / 4, wavelengths > 1024
    assert short.any()
    assert long.any()
    assert (~short & ~long).any()
    np.testing.assert_allclose(frequencies[short], PLAIN[short], rtol=2e-7)
    np.testing.assert_allclose(frequencies[long], PLAIN[long] / 8, rtol=2e-7)
    assert (np.diff(frequencies) < 0).all()


def test_proportional_turns_only_the_first_part_of_a_head() -> None:
    frequencies = _frequencies({"rope_type": "proportional", "partial_rotary_factor": 0.25})
    np.testing.assert_allclose(frequencies[:8], PLAIN[:8], rtol=2e-7)
    assert not frequencies[8:].any()


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        (None, LONGEST),
        ({"type": "linear", "factor": 4.0}, 4 * LONGEST),
        ({"type": "dynamic", "factor": 2.5}, 5120),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        (LLAMA3, LONGEST),
        (LONGROPE, LONGEST),
    ],
)
def test_trained_context_counts_what_scaling_adds(scaling: dict[str, Any] | None, context: int) -> None:
    assert _config(scaling).trained_context == context


def test_the_original_length_beside_rope_parameters_takes_precedence() -> None:
    assert _config(LLAMA3, original_max_position_embeddings=512).original_max_position == 512


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown type": ({"rope_type": "mrope"}, "rope_type"),
    "not an object": ([1], ""),
    "field of another type": ({"rope_type": "default", "mrope_section": [1]}, "mrope_section"),
    "no factor": ({"rope_type": "linear"}, "factor"),
    "factor of zero": ({"rope_type": "linear", "factor": 0}, "factor"),
    "factor that is text": ({"rope_type": "dynamic", "factor": "2"}, "factor"),
    "partial": ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "theta below zero": ({"rope_type": "default", "rope_theta": -1.0}, "rope_theta"),
    "llama3 without factors": ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
    "longrope without factors": ({"rope_type": "longrope", "short_factor": [1.0] * HALF}, "long_factor"),
    "longrope of another head": (LONGROPE | {"short_factor": [1.0]}, "short_factor"),
    "longrope with text": (LONGROPE | {"long_factor": ["x"] * HALF}, "long_factor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_is_refused_naming_the_field(case: str) -> None:
    scaling, field = REFUSED[case]
    with pytest.raises(InvalidArgument) as raised:
        _config(scaling)
    assert raised.value.reason is Reason.CONFIG_UNSUPPORTED
    expected = ".".join(part for part in ("source.config.json.rope_parameters", field) if part)
    assert raised.value.violations[0].field == expected
