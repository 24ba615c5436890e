"""Kept blocks stand for the very numbers that the `gguf` package makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from builder_service.checkpoint.checkpoint import BlockFormat, PackedRows
from builder_service.checkpoint.gguf.blocks import block_format, kept_types, pack
from builder_service.graph.quantize import int4_values
from tests.samples.gguf.blocks import encode

KINDS = [kind for kind in GGML_QUANT_SIZES if block_format(kind) is not None]


def unpacked(rows: PackedRows, found: BlockFormat) -> np.ndarray:
    """The weights that `MatMulNBits` and its correction have, in float64."""
    values, zeros = rows.values, rows.zeros
    if found.bits == 4:
        values, zeros = int4_values(values), int4_values(zeros)[:, : rows.scales.shape[1]]
    weights = (values.astype(np.float64) - zeros[:, :, None]) * rows.scales[:, :, None]
    weights += 0 if rows.rest is None else rows.rest[:, :, None]
    return weights.reshape(len(weights), -1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("inputs", [256, 768])
def test_no_weight_changes(kind: GGMLQuantizationType, inputs: int) -> None:
    values = np.random.default_rng(3).standard_normal((5, inputs), np.float32)
    raw = encode(values, kind)
    found = block_format(kind)
    assert found is not None
    wanted = dequantize(raw, kind).astype(np.float64)
    rounding = 0 if not found.corrected else 2**-23 * np.abs(wanted).max()  # the rest is rounded to float32
    np.testing.assert_allclose(unpacked(pack(raw, kind), found), wanted, rtol=2**-23, atol=rounding)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in {"Q4_1", "Q4_K", "Q5_1", "Q5_K", "Q2_K"}])
def test_what_is_left_of_a_minimum_is_less_than_a_step(kind: GGMLQuantizationType) -> None:
    """So int8 activations, which only the rest is spared, lose no more than they do without it."""
    rows = pack(encode(np.random.default_rng(4).standard_normal((8, 512), np.float32), kind), kind)
    found = block_format(kind)
    assert rows.rest is not None
    assert found is not None
    zeros = int4_values(rows.zeros) if found.bits == 4 else rows.zeros
    inside = (zeros > 0) & (zeros < (15 if found.bits == 4 else 31))
    assert inside.any()
    assert (np.abs(rows.rest) <= 0.5000001 * np.abs(rows.scales))[inside].all()


def test_a_block_of_zeros_stays_one() -> None:
    rows = pack(encode(np.zeros((2, 64), np.float32), GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    assert not rows.scales.any()
    assert rows.rest is not None
    assert not rows.rest.any()


def test_an_odd_number_of_blocks_leaves_half_a_byte() -> None:
    rows = pack(encode(np.ones((2, 96), np.float32), GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
    assert rows.zeros.tolist() == [[0x88, 0x88]] * 2


def test_types_with_codebooks_of_many_inputs_are_not_kept() -> None:
    assert block_format(GGMLQuantizationType.IQ2_XS) is None
    assert "Q4_K" in kept_types()
