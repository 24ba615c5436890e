"""An engine of a checkpoint with an adapter is that of the checkpoint which the two are merged into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.verify.second.adapter import SecondAdapter
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.errors import FailedPrecondition, InvalidArgument, Reason
from common.spec.manifest import GRAPH_PATH, Manifest
from common.spec.model_spec import Precision, Source
from common.window import SessionWindow
from tests.nightly import LONG, one_in
from tests.samples.adapters.folders import matrices_of, merge_by_hand, write_adapter
from tests.samples.checkpoints import write_checkpoint
from tests.samples.gguf.files import write_gguf
from tests.unit.builder_service.pipeline.builds import built, store


@pytest.fixture
def adapter(model: Path) -> Path:
    return write_adapter(model.parent / "adapter", matrices_of(model), dtype=ml_dtypes.bfloat16)


def _logits(model: Path, manifest: Manifest) -> np.ndarray:
    placed = model.parent / manifest.build_key.partition(":")[2]
    placed.mkdir()
    for file in manifest.files:
        store(model).place(file.digest, placed / file.path)
    engine = OnnxRuntimeEngine(placed / GRAPH_PATH, manifest.architecture, manifest.rope, manifest.geometry)
    with closing(engine):
        return engine.step((Feed(0, 0, SessionWindow(4, 12), (5, 6, 7)),)).copy()


@pytest.mark.parametrize("precision", one_in(2, [Precision.FP32, Precision.INT8], LONG))
def test_it_answers_as_the_merged_checkpoint_does(model: Path, adapter: Path, precision: Precision) -> None:
    merged = merge_by_hand(model, adapter, model.parent / "merged")
    manifest = built(model, source=Source(uri=str(model), adapter=str(adapter)), precision=precision)
    plain, wanted = (built(folder, precision=precision) for folder in (model, merged))
    assert len({one.build_key for one in (manifest, plain, wanted)}) == 3
    assert manifest.verification["margin"] >= 2
    ours, theirs, without = (_logits(model, one) for one in (manifest, wanted, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 if precision is Precision.FP32 else 0.3)
    assert np.abs(ours - without).max() > 1


def test_the_manifest_has_the_adapter_and_its_files_and_every_byte_of_them_is_another_engine(
    model: Path, adapter: Path
) -> None:
    source = Source(uri=str(model), adapter=str(adapter))
    manifest = built(model, source=source)
    assert manifest.spec.source == source
    assert [file.path for file in manifest.source_files][-2:] == ["adapter_config.json", "adapter_model.safetensors"]
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert built(model, source=source).build_key != manifest.build_key


def test_a_gguf_is_merged_in_another_precision_than_its_own(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "folder", hidden=64)
    file = write_gguf(tmp_path / "model.gguf", folder)
    adapter = write_adapter(tmp_path / "adapter", matrices_of(folder))
    manifest = built(file, source=Source(uri=str(file), adapter=str(adapter)), precision=Precision.FP32)
    assert manifest.verification["margin"] >= 2


class _Scaled(SecondAdapter):
    """A reading with another alpha."""

    def _factor(self, module: str, rank: int) -> float:
        return 1.05 * super()._factor(module, rank)


class _Forgetful(SecondAdapter):
    """A reading of all but one matrix."""

    def blocks(self, name: str) -> Iterator[FloatArray]:
        return self._base.blocks(name) if name.endswith("1.mlp.up_proj.weight") else super().blocks(name)


@pytest.mark.parametrize(("reading", "where"), [(_Scaled, "layer 0"), (_Forgetful, "feed-forward of layer 1")])
def test_what_was_merged_wrongly_is_not_stored(
    model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, reading: type[SecondAdapter], where: str
) -> None:
    monkeypatch.setattr("builder_service.pipeline.verify.SecondAdapter", reading)
    with pytest.raises(FailedPrecondition, match=where) as caught:
        built(model, source=Source(uri=str(model), adapter=str(adapter)))
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_what_is_wrong_with_an_adapter_names_its_field(model: Path, adapter: Path, tmp_path: Path) -> None:
    for place, said in ((tmp_path / "nowhere", "does not exist"), (Path("/"), "outside the builder's source roots")):
        with pytest.raises(Exception, match=rf"spec\.source\.adapter: .*{said}"):
            built(model, source=Source(uri=str(model), adapter=str(place)))
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(InvalidArgument, match="not safetensors") as caught:
        built(model, source=Source(uri=str(model), adapter=str(adapter)))
    assert caught.value.violations[0].field == "spec.source.adapter"
