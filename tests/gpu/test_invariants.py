"""I1, I2, I3, I5 of `tests/unit/common/engine/test_invariants.py` on a GPU, in every precision; I4: `test_parking.py`.

I6 is here: what a step takes of time and device memory at position 1,000,000, beside an early one.
Free memory is that of the whole GPU: nobody else may use it meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from common.engine.cuda_device import find_gpu
from common.engine.engine import Engine, Feed
from common.spec.model_spec import Precision, Target
from common.window import Geometry, SessionWindow
from tests.fakes.gpu import TensorRtEngine, build_tensorrt_engine
from tests.gpu.borrowed import public_names
from tests.gpu.findings import Findings
from tests.gpu.machine import FAKE
from tests.gpu.tolerances import TOLERANCES
from tests.samples.checkpoints import write_checkpoint
from tests.unit.common.engine import test_invariants as invariants

pytestmark = pytest.mark.gpu

_ELSEWHERE = {
    "lab",
    "any_lab",
    "test_i4_an_exported_session_goes_on_bit_by_bit_in_another_engine",
    "test_quantized_engines_keep_i2_to_i5_within_a_rounding",
}
globals().update(public_names(invariants, but=_ELSEWHERE))

STEPS = 200 if FAKE else 2_000
FAR = 1_000_000


@dataclass(frozen=True)
class GpuLab(invariants.Lab):
    """The invariants' laboratory, with engines on the GPU."""

    made: list[TensorRtEngine] = field(default_factory=list, compare=False)

    def new_engine(self, shape: str, geometry: Geometry) -> Engine:
        self.made.append(build_tensorrt_engine(self.checkpoint(shape), geometry, self.precision))
        return self.made[-1]


@pytest.fixture(scope="module", params=list(TOLERANCES))
def any_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuLab]:
    precision: Precision = request.param
    folder: Path = tmp_path_factory.mktemp("invariants")
    lab = GpuLab(folder, Target.TENSORRT, precision, TOLERANCES[precision])
    yield lab
    for engine in lab.made:
        engine.close()


@pytest.fixture
def lab(any_lab: GpuLab) -> GpuLab:
    return any_lab


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_i6_a_step_far_out_takes_no_more_device_memory_than_an_early_one(
    tmp_path: Path, precision: Precision, findings: Findings
) -> None:
    geometry, window = Geometry(4, 60, 16, slots=2), SessionWindow(4, 60)
    folder = write_checkpoint(tmp_path / "checkpoint", tokenizer=False)
    with closing(build_tensorrt_engine(folder, geometry, precision)) as engine:
        _median_of_steps(engine, window, 0, 100)  # CUDA loads a kernel when it is first used
        free = find_gpu().free_bytes
        early = _median_of_steps(engine, window, 0, STEPS)
        assert find_gpu().free_bytes >= free
        far = _median_of_steps(engine, window, FAR, STEPS)
        assert find_gpu().free_bytes >= free
    findings.measure(f"I6, {precision}: a step at position {FAR:,} over an early one", f"{far / early:.2f}")


def _median_of_steps(engine: Engine, window: SessionWindow, start: int, count: int) -> float:
    """Seconds of a step of one token, over `count` of them from position `start` on."""
    seconds = []
    for position in range(start, start + count):
        began = time.perf_counter()
        logits = engine.step((Feed(0, position, window, (position % 300,)),))
        seconds.append(time.perf_counter() - began)
        assert np.isfinite(logits).all()
    return statistics.median(seconds)
