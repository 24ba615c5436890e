from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_architecture
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import Estimate, check_fits, estimate, kv_bytes_per_slot
from common.engine.kv_pool import KvPool
from common.errors import Reason, ResourceExhausted
from common.spec.manifest import WEIGHTS_PATH
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint
from tests.samples.drafts import SHAPES
from tests.samples.engines import export_graph

GEOMETRY = Geometry(sinks=4, window=60, chunk=16, slots=3)


@pytest.mark.parametrize(
    ("precision", "block"),
    [*((precision, 32) for precision in PRECISIONS[Target.ONNXRUNTIME]), (Precision.INT4, 64), (Precision.INT4, 128)],
)
def test_weights_take_about_what_the_export_writes(tmp_path: Path, precision: Precision, block: int) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", hidden=128, heads=4, kv_heads=4, vocab=512))
    out = export_graph(checkpoint.folder, GEOMETRY, precision.value, int4_block=block)
    written = (out / WEIGHTS_PATH).stat().st_size
    guess = estimate(read_architecture(checkpoint.config), GEOMETRY, WeightFormat(precision, block)).weight_bytes
    # Every tensor starts on a page, which weighs in a model this small; scales and norms are not counted.
    assert 0.8 * guess < written < guess + 4096 * 60


def test_larger_blocks_of_int4_have_fewer_scales_and_zero_points() -> None:
    embedding = SHAPES.vocabulary * SHAPES.hidden
    numbers = 4.5 * (SHAPES.parameters - embedding) + 5 * embedding  # bytes of a block: a scale and a zero point
    guesses = [estimate(SHAPES, GEOMETRY, WeightFormat(Precision.INT4, block)).weight_bytes for block in (32, 64, 128)]
    np.testing.assert_allclose(np.diff(guesses), [numbers * (1 / 64 - 1 / 32), numbers * (1 / 128 - 1 / 64)], atol=2)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_slot_takes_what_the_engine_allocates(narrow: bool) -> None:
    pool = KvPool(SHAPES, GEOMETRY, narrow=narrow)
    weight_format = WeightFormat(Precision.FP32, narrow_cache=narrow)
    assert estimate(SHAPES, GEOMETRY, weight_format).kv_bytes_per_slot * GEOMETRY.slots == sum(
        array.nbytes for _, array in pool.named()
    )


@pytest.mark.parametrize("precision", PRECISIONS[Target.TENSORRT_LLM])
def test_a_slot_in_sixteen_bits_takes_half(precision: Precision) -> None:
    narrow, wide = (kv_bytes_per_slot(SHAPES, GEOMETRY, WeightFormat(kind)) for kind in (precision, Precision.FP32))
    assert 2 * narrow == wide
    assert estimate(SHAPES, GEOMETRY, WeightFormat(precision)).kv_bytes_per_slot == narrow


def test_memory_covers_weights_and_all_slots() -> None:
    needs = estimate(SHAPES, GEOMETRY, WeightFormat(Precision.FP32))
    assert needs.memory_bytes > needs.weight_bytes + needs.kv_bytes_per_slot * GEOMETRY.slots


NEEDS = Estimate(weight_bytes=0, kv_bytes_per_slot=0, memory_bytes=100 * 2**20, disk_bytes=50 * 2**20)


def test_what_fits_is_let_through() -> None:
    check_fits(NEEDS, NEEDS.memory_bytes, NEEDS.disk_bytes, Path("/work"))


@pytest.mark.parametrize(
    ("memory", "disk", "reason", "said"),
    [
        (NEEDS.memory_bytes - 1, NEEDS.disk_bytes, Reason.OUT_OF_MEMORY, "100 MiB of memory"),
        (NEEDS.memory_bytes, 2**20, Reason.OUT_OF_DISK, "50 MiB of disk and 1 MiB are free in /work"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(memory: int, disk: int, reason: Reason, said: str) -> None:
    with pytest.raises(ResourceExhausted, match=said) as caught:
        check_fits(NEEDS, memory, disk, Path("/work"))
    assert caught.value.reason is reason
    assert caught.value.metadata["free_bytes"] == str(memory if reason is Reason.OUT_OF_MEMORY else disk)
