"""The graphs for TensorRT on ONNX Runtime's CUDA provider, which needs a GPU and no TensorRT.

The CPU runs only what `builder_service.graph.widening` makes of the graphs in 16 bits; here the graphs themselves
run. Every step starts from the CPU's caches, so that errors do not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from common.engine.angles import Angles
from common.engine.batch import Batch, plan_batch
from common.engine.engine import Feed
from common.engine.step_inputs import StepInputs
from common.spec.manifest import GRAPH_PATH, STAND_IN_PATH
from common.spec.model_spec import Precision, Target
from common.window import Geometry, SessionWindow, linear_run
from tests.gpu.findings import Findings
from tests.gpu.machine import CUDA_PROVIDER, FAKE, Here
from tests.gpu.provider_session import CPU, Arrays, NoKernelError, ProviderSession
from tests.gpu.tolerances import TOLERANCES
from tests.samples.engines import export_graph
from tests.samples.families import ON_EVERY_TARGET, write_family
from tests.samples.streams import random_tokens

pytestmark = pytest.mark.gpu

GEOMETRY = Geometry(4, 17, 8, slots=2)
WINDOWS = (SessionWindow(4, 17), SessionWindow(2, 5))
SIZES = ((8, 3), (1, 1), (2, 0), (5, 8), (1, 1))
TOKENS = 60


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """TensorRT is not needed here."""


@pytest.fixture
def provider(here: Here) -> str:
    if FAKE:
        return CPU
    if not here.cuda_provider:
        pytest.skip(f"onnxruntime has no {CUDA_PROVIDER}: pip install onnxruntime-gpu instead of onnxruntime")
    return CUDA_PROVIDER


@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_the_graph_computes_on_cuda_what_the_cpu_computes(
    tmp_path: Path, name: str, precision: Precision, provider: str, findings: Findings
) -> None:
    folder = write_family(tmp_path / name, name)
    exported = export_graph(folder, GEOMETRY, precision, Target.TENSORRT)
    on_cpu = ProviderSession(exported / STAND_IN_PATH, CPU, tmp_path / "cpu")
    try:
        on_gpu = ProviderSession(exported / GRAPH_PATH, provider, tmp_path / "gpu")
    except NoKernelError as error:
        assert precision is not Precision.FP32
        pytest.skip(f"{provider} has no kernel in {precision}: {error}")
    worst = max(_errors(on_cpu, on_gpu, folder))
    there = ", ".join(sorted(on_gpu.operators_on(CPU))) or "none"
    findings.measure(f"{provider}, {precision}: operators that ran on the CPU", there)
    findings.measure(f"{provider}, {precision}, {name}: worst number over the largest", f"{worst:.1e}")
    assert worst <= TOLERANCES[precision]


def _errors(on_cpu: ProviderSession, on_gpu: ProviderSession, folder: Path) -> Iterator[float]:
    """Of logits and caches after every step, relative to the largest number of each."""
    model = read_model(open_checkpoint(folder).config)
    shapes = model.architecture
    inputs = StepInputs(GEOMETRY, Angles.of(read_rope(model, GEOMETRY)))
    empty = (GEOMETRY.slots, shapes.kv_heads, GEOMETRY.rows, shapes.head_dim)
    caches: Arrays = {name: np.zeros(empty, dtype) for name, dtype in on_cpu.caches.items()}
    for batch in _batches(shapes.vocabulary):
        slots = slice(batch.first, batch.first + batch.size)
        given: Arrays = dict(inputs.fill(batch).named()) | {name: cache[slots] for name, cache in caches.items()}
        want, got = on_cpu.run(given, shapes.vocabulary), on_gpu.run(given, shapes.vocabulary)
        yield from (_relative(got[name], want[name]) for name in want)
        for name, cache in caches.items():
            cache[slots] = want[name]


def _batches(vocabulary: int) -> Iterator[Batch]:
    """Two sessions of unequal steps, padded and idle by turns, over two ends of the ring."""
    done, turn = [0, 0], 0
    streams = [random_tokens(TOKENS, vocabulary, seed) for seed in range(2)]
    while min(done) < TOKENS:
        feeds = []
        for slot, size in enumerate(SIZES[turn % len(SIZES)]):
            count = min(size, linear_run(GEOMETRY, WINDOWS[slot].sinks, done[slot]))
            tokens = tuple(streams[slot][done[slot] : done[slot] + count])
            feeds.append(Feed(slot, done[slot], WINDOWS[slot], tokens))
            done[slot] += len(tokens)
        turn += 1
        if any(feed.tokens for feed in feeds):
            yield plan_batch(GEOMETRY, tuple(feeds))


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    wide, exact = got.astype(np.float64), want.astype(np.float64)
    if not np.isfinite(wide).all():
        return np.inf
    return float(np.abs(wide - exact).max() / max(np.abs(exact).max(), 1e-30))
