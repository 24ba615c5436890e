"""The runtime on a plan that the builder built: from its store over the wire, on a GPU that is none."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.schema import open_database
from common.settings import SharedSettings
from common.spec.manifest import PLAN_PATH
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source, Target
from common.spec.published_engine import PublishedEngine
from common.spec.target_options import TensorRtLlmOptions
from common.store.blob_store import open_store
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.fakes import tensorrt_llm as fake_tensorrt_llm
from tests.fakes.cuda import FakeCuda
from tests.fakes.gpu import install
from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.test_built_engine import serving, talk
from tests.service.runtime.runtime import reason_of
from tests.unit.builder_service.pipeline.listener import Listener

CACHE = CacheGeometry(sink_tokens=4, window_tokens=40, chunk_tokens=16, max_slots=2)
TEXTS = ("hello", "how are you", "what is two plus two", "and again")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


def publish(home: Path, target: Target, precision: Precision = Precision.FP32) -> PublishedEngine:
    """Build in this process, where the GPU is, and publish."""
    shared = SharedSettings.load({"home": home})
    model = home / "model"
    if not model.exists():
        write_checkpoint(model)
    (home / "work").mkdir(exist_ok=True)
    spec = ModelSpec(name="tiny", source=Source(uri=str(model)), target=target, precision=precision, cache=CACHE)
    manifest = run_build(Order(spec=spec, work=home / "work", source_roots=(home,), store_url=shared.store), Listener())
    assert manifest is not None
    database = open_database(shared.database)
    try:
        claim_blobs(database, [file.digest for file in manifest.files], "test")
        return Catalog(database, open_store(shared.store)).publish(manifest, "test")
    finally:
        database.close()


@pytest.mark.long
async def test_a_conversation_says_what_it_says_on_the_cpu(cuda: FakeCuda, tmp_path: Path) -> None:
    publish(tmp_path / "gpu", Target.TENSORRT)
    publish(tmp_path / "cpu", Target.ONNXRUNTIME)
    async with serving(tmp_path / "cpu") as channel:
        _, expected = await talk(channel, TEXTS)
    async with serving(tmp_path / "gpu", engines=("tiny",)) as channel:
        _, replies = await talk(channel, TEXTS)
    assert replies == expected
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})


async def test_the_slots_that_fit_are_stated(cuda: FakeCuda, tmp_path: Path) -> None:
    engine = publish(tmp_path, Target.TENSORRT)
    slot = engine.manifest.kv_bytes_per_slot
    cuda.total_bytes = int((1.5 * slot + 4 * 2 * (2 * 16 * 74 + 512)) / 0.9)
    async with serving(tmp_path, engines=("tiny",)) as channel:
        listed = await EngineServiceStub(channel).ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())
        assert listed.engines[0].slots == 1
        _, replies = await talk(channel, TEXTS)
        assert all(replies)


async def test_an_engine_of_another_gpu_is_refused_before_its_files_are_read(cuda: FakeCuda, tmp_path: Path) -> None:
    engine = publish(tmp_path, Target.TENSORRT)
    plan = next(file for file in engine.manifest.files if file.path == PLAN_PATH)
    open_store(SharedSettings.load({"home": tmp_path}).store).delete(plan.digest)
    cuda.capability = (8, 0)
    async with serving(tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EngineServiceStub(channel).LoadEngine(engine_pb.LoadEngineRequest(reference="tiny"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(caught.value) == "ENGINE_INCOMPATIBLE"
    assert "compute capability 9.0; here is compute capability 8.0" in str(caught.value.details())


async def test_an_engine_for_tensorrt_llm_reads_the_checkpoint_that_it_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorrt_llm.install(monkeypatch, TensorRtLlmOptions().version)
    publish(tmp_path, Target.TENSORRT_LLM, Precision.BF16)
    async with serving(tmp_path) as channel:
        _, replies = await talk(channel, TEXTS)
        assert all(replies)
    config = tmp_path / "model" / "config.json"
    config.write_bytes(config.read_bytes().replace(b'"silu"', b'"gelu"'))
    async with serving(tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"config\.json was changed") as caught:
            await EngineServiceStub(channel).LoadEngine(engine_pb.LoadEngineRequest(reference="tiny"))
        assert reason_of(caught.value) == "ENGINE_INCOMPATIBLE"
    config.unlink()
    async with serving(tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"config\.json is missing"):
            await EngineServiceStub(channel).LoadEngine(engine_pb.LoadEngineRequest(reference="tiny"))


async def test_without_tensorrt_llm_it_says_what_is_needed(tmp_path: Path) -> None:
    publish(tmp_path, Target.TENSORRT_LLM, Precision.BF16)
    async with serving(tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"needs the tensorrt_llm package, version 1\.3\.0rc27"):
            await EngineServiceStub(channel).LoadEngine(engine_pb.LoadEngineRequest(reference="tiny"))
