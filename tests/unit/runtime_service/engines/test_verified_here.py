"""An engine is checked where it is loaded: what computes something else than the reference does not serve."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from structlog.testing import capture_logs

from common.digest import digest_file
from common.errors import DataLoss, FailedPrecondition, Reason
from common.spec.manifest import GOLDEN_PATH, GRAPH_PATH, EngineFile, Manifest, Rope
from common.spec.model_spec import Precision, Target
from common.spec.published_engine import PublishedEngine
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.settings import RuntimeSettings
from tests.fakes.gpu import install
from tests.samples.checkpoints import write_checkpoint
from tests.samples.session_examples import NOON
from tests.unit.builder_service.pipeline.builds import built, store
from tests.unit.runtime_service.engines.damage import damage, flip_a_weight, swap_two_heads

QKV, OUTPUT = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A checkpoint, and an engine of it in the store beside it."""
    model = write_checkpoint(tmp_path_factory.mktemp("built") / "model", hidden=64, tokenizer=False)
    return model, built(model, precision=Precision(request.param))


def load(artifact: tuple[Path, Manifest], folder: Path, threads: int = 1) -> Loaded:
    model, manifest = artifact
    published = PublishedEngine(manifest, f"sha256:{0:064}", NOON)
    loaded = Loader(store(model), folder, RuntimeSettings(threads=threads)).load(published)
    assert isinstance(loaded, Loaded)
    loaded.engine.close()
    return loaded


def altered(artifact: tuple[Path, Manifest], work: Path, change: Callable[[Path], None]) -> tuple[Path, Manifest]:
    """The artifact with other files, and a manifest that has their digests; `change` gets the folder."""
    model, manifest = artifact
    work.mkdir()
    for file in manifest.files:
        store(model).fetch(file.digest, work / file.path)
    change(work)
    files: list[EngineFile] = []
    for file in manifest.files:
        path = work / file.path
        files.append(file.model_copy(update={"digest": digest_file(path), "size_bytes": path.stat().st_size}))
        store(model).put(path, files[-1].digest)
    shutil.rmtree(work)
    return model, manifest.model_copy(update={"files": tuple(files)})


def test_a_right_engine_serves_whatever_order_its_sums_have(
    artifact: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    margins = [load(artifact, tmp_path, threads).margin for threads in (1, 3)]
    assert min(margin or 0.0 for margin in margins) >= 4
    if artifact[1].spec.precision is Precision.INT4:
        return  # its scales are widened by the optimizer: MatMulNBits gives zeros where they are computed in the graph
    make = ort.SessionOptions

    def plain() -> ort.SessionOptions:
        options = make()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    monkeypatch.setattr(ort, "SessionOptions", plain)
    assert (load(artifact, tmp_path).margin or 0.0) >= 4


@pytest.mark.parametrize(
    ("matrix", "change"), [(OUTPUT, flip_a_weight), (QKV, swap_two_heads)], ids=["one weight", "two heads"]
)
def test_an_engine_with_other_weights_does_not_serve(
    artifact: tuple[Path, Manifest], tmp_path: Path, matrix: str, change: Callable[[np.ndarray], None]
) -> None:
    wrong = altered(artifact, tmp_path / "work", lambda folder: damage(folder / GRAPH_PATH, matrix, change))
    with pytest.raises(FailedPrecondition) as caught:
        load(wrong, tmp_path)
    assert caught.value.reason is Reason.ENGINE_UNVERIFIED
    facts = caught.value.metadata
    assert float(facts["value"]) > float(facts["bound"]) > 0
    assert {"engine", "figure", "stream", "position", "expected", "got"} < facts.keys()
    assert facts["expected"] in caught.value.message


def test_a_plan_repeats_its_golden_streams_on_the_gpu_that_it_is_loaded_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = install(monkeypatch)
    model = write_checkpoint(tmp_path / "model", tokenizer=False)
    plan = model, built(model, target=Target.TENSORRT, precision=Precision.FP32)
    assert (load(plan, tmp_path).margin or 0) >= 4
    wrong = plan[0], plan[1].model_copy(update={"rope": Rope(inverse_frequencies=(1.0, 0.5, 0.2, 0.1))})
    with pytest.raises(FailedPrecondition) as caught:
        load(wrong, tmp_path)
    assert caught.value.reason is Reason.ENGINE_UNVERIFIED
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})  # what was refused takes no memory


def test_an_engine_of_before_there_were_golden_streams_is_loaded_and_said_to_be_unverified(
    artifact: tuple[Path, Manifest], tmp_path: Path
) -> None:
    model, manifest = artifact
    files = tuple(file for file in manifest.files if file.path != GOLDEN_PATH)
    with capture_logs() as lines:
        assert load((model, manifest.model_copy(update={"files": files})), tmp_path).margin is None
    (warning,) = (line["warning"] for line in lines if line["event"] == "engine.unverified")
    assert "build it again" in warning


def test_streams_that_cannot_be_read_are_refused(artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    wrong = altered(artifact, tmp_path / "work", lambda folder: _write(folder / GOLDEN_PATH, '{"format": 2}'))
    with pytest.raises(DataLoss, match=r"golden.json does not hold golden streams"):
        load(wrong, tmp_path)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
