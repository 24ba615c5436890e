from __future__ import annotations

import pytest

from builder_service.estimate import Estimate, check_fits, estimate
from common.errors import Reason, ResourceExhausted
from common.kv_pool import KvPool
from common.spec import Precision
from common.window import Geometry
from tests.drafts import SHAPES

GEOMETRY = Geometry(sinks=4, window=60, chunk=16, slots=3)


@pytest.mark.parametrize(
    ("precision", "bytes_each"), [(Precision.FP32, 4), (Precision.INT8, 1), (Precision.INT4, 0.5625)]
)
def test_weights_take_what_their_precision_takes(precision: Precision, bytes_each: float) -> None:
    assert estimate(SHAPES, GEOMETRY, precision).weight_bytes == round(SHAPES.parameters * bytes_each)


def test_a_slot_takes_what_the_engine_allocates() -> None:
    pool = KvPool(SHAPES, GEOMETRY)
    assert estimate(SHAPES, GEOMETRY, Precision.FP32).kv_bytes_per_slot * GEOMETRY.slots == sum(
        array.nbytes for arrays in (pool.keys, pool.values) for array in arrays
    )


def test_memory_covers_weights_and_all_slots() -> None:
    needs = estimate(SHAPES, GEOMETRY, Precision.FP32)
    assert needs.memory_bytes > needs.weight_bytes + needs.kv_bytes_per_slot * GEOMETRY.slots


NEEDS = Estimate(weight_bytes=0, kv_bytes_per_slot=0, memory_bytes=100 * 2**20, disk_bytes=50 * 2**20)


def test_what_fits_is_let_through() -> None:
    check_fits(NEEDS, NEEDS.memory_bytes, NEEDS.disk_bytes)


@pytest.mark.parametrize(
    ("memory", "disk", "reason", "said"),
    [
        (NEEDS.memory_bytes - 1, NEEDS.disk_bytes, Reason.OUT_OF_MEMORY, "100 MiB of memory"),
        (NEEDS.memory_bytes, 2**20, Reason.OUT_OF_DISK, "50 MiB of disk and 1 MiB are free"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(memory: int, disk: int, reason: Reason, said: str) -> None:
    with pytest.raises(ResourceExhausted, match=said) as caught:
        check_fits(NEEDS, memory, disk)
    assert caught.value.reason is reason
