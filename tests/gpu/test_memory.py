"""Device memory: an engine takes what it says, gives all of it back, and makes do with what is free.

Free memory is that of the whole GPU: nobody else may use it meanwhile.
"""

from __future__ import annotations

import gc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import kv_bytes_per_slot
from common.engine.cuda_device import CudaDevice, find_gpu
from common.engine.engine import Engine, Feed
from common.errors import Reason, ResourceExhausted
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from tests.fakes.gpu import TensorRtEngine, compile_plan
from tests.gpu.findings import Findings
from tests.samples.checkpoints import write_checkpoint
from tests.samples.streams import feed_all, largest_error, random_tokens

pytestmark = pytest.mark.gpu

GEOMETRY = Geometry(4, 508, 8, slots=64)
WINDOW = SessionWindow(4, 508)
LEFT = 4 << 20  # bytes: CUDA hands out device memory in pieces of 2 MiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 2 MiB of keys and values a slot."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, head_dim=64, tokenizer=False)


@pytest.fixture(scope="module", autouse=True)
def loaded(folder: Path) -> None:
    """CUDA and TensorRT load kernels and make contexts when something first runs; that memory stays taken."""
    with closing(make(folder)) as engine:
        assert works(engine)
        park(engine)


def make(folder: Path, memory_share: float = 0.9) -> TensorRtEngine:
    model = read_model(open_checkpoint(folder).config)
    plan, rope = compile_plan(folder, GEOMETRY, "fp32"), read_rope(model, GEOMETRY)
    return TensorRtEngine(plan, model.architecture, rope, GEOMETRY, memory_share=memory_share)


def slot_bytes(folder: Path) -> int:
    return kv_bytes_per_slot(
        read_model(open_checkpoint(folder).config).architecture, GEOMETRY, WeightFormat(Precision.FP32)
    )


def free_bytes() -> int:
    return find_gpu().free_bytes


def works(engine: Engine) -> bool:
    slots = range(engine.geometry.slots)
    return bool(np.isfinite(engine.step(tuple(Feed(slot, 0, WINDOW, (1, 2)) for slot in slots))).all())


def park(engine: Engine) -> None:
    """Chunks, single tokens, leaving, coming back and clearing, all over the slots."""
    for slot in range(0, engine.geometry.slots, 8):
        feed_all(engine, slot, WINDOW, random_tokens(30, 384), [8, 1])
        engine.import_slot(slot + 1, engine.export_slot(slot, 30, WINDOW))
        engine.clear(slot)


def test_all_device_memory_is_back_after_close(folder: Path, findings: Findings) -> None:
    before = free_bytes()
    for _ in range(3):
        with closing(make(folder)) as engine:
            assert works(engine)
            taken = before - free_bytes()
            assert taken >= GEOMETRY.slots * slot_bytes(folder)
        assert before - free_bytes() <= LEFT
    kv = GEOMETRY.slots * slot_bytes(folder)
    findings.measure("device memory of an engine over its keys and values", f"{taken / kv:.2f}")


def test_steps_leaving_and_coming_back_take_no_device_memory(folder: Path) -> None:
    with closing(make(folder)) as engine:
        assert works(engine)
        before = free_bytes()
        park(engine)
        assert before - free_bytes() <= LEFT


def test_two_engines_run_beside_each_other_and_do_not_disturb(folder: Path) -> None:
    tokens = random_tokens(60, 384)
    with closing(make(folder)) as one:
        alone = list(feed_all(one, 0, WINDOW, tokens, [1]).values())
        one.clear(0)
        with closing(make(folder)) as two:
            for position in range(60):
                feed = Feed(0, position, WINDOW, (tokens[position],))
                other = Feed(0, position, WINDOW, (tokens[-1 - position],))
                (logits,), _ = one.step((feed,)), two.step((other,))
                np.testing.assert_array_equal(logits, alone[position])
        again = feed_all(one, 0, WINDOW, [*tokens, 5], [1], start=60)  # the other one has gone
        assert np.isfinite(again[60]).all()


def test_an_engine_has_as_many_slots_as_the_free_memory_holds(folder: Path) -> None:
    """Half of the free memory goes to somebody else: about half as many slots fit into the same share of the rest."""
    share = (GEOMETRY.slots // 2 * slot_bytes(folder) + staging_bytes()) / free_bytes()
    with closing(make(folder, share)) as engine:
        half = engine.geometry.slots
        assert 0.4 * GEOMETRY.slots <= half <= 0.5 * GEOMETRY.slots
        assert works(engine)
    with closing(CudaDevice()) as other:
        other.allocate(free_bytes() // 2)
        other.synchronize()
        with closing(make(folder, share)) as engine:
            assert 1 <= engine.geometry.slots <= 0.6 * half
            assert works(engine)
            tokens = random_tokens(30, 384)
            last = engine.geometry.slots - 1
            got = feed_all(engine, last, WINDOW, tokens, [1])
            engine.clear(last)
            assert largest_error(feed_all(engine, last, WINDOW, tokens, [8]), [got[at] for at in range(30)]) < 1e-4


def test_an_engine_that_has_no_room_for_one_slot_is_refused_and_takes_nothing(folder: Path) -> None:
    before = free_bytes()
    with pytest.raises(ResourceExhausted, match="one slot takes") as caught:
        make(folder, memory_share=1e-9)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    del caught  # its traceback has the engine that was not finished
    gc.collect()
    assert before - free_bytes() <= LEFT


def staging_bytes() -> int:
    """What the engine counts for inputs and logits beside keys and values."""
    return 4 * GEOMETRY.slots * (2 * GEOMETRY.chunk * GEOMETRY.rows + 384)
