"""Equal build keys give equal bytes: tiny checkpoints through whole builds, one input changed at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from builder_service.pipeline import resolve
from builder_service.pipeline.build_key import build_key
from builder_service.pipeline.estimate import Estimate
from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.queue.build import Stage
from common.digest import digest_of
from common.spec import manifest as manifest_module
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH, Manifest
from common.spec.model_spec import BuildOptions, CacheGeometry, ModelSpec, Precision, Source, Target
from common.spec.target_options import OnnxRuntimeOptions
from tests.nightly import one_in
from tests.samples.checkpoints import copy_checkpoint, write_checkpoint

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)
CHOICES = (
    (Target.ONNXRUNTIME, Precision.FP32),
    (Target.ONNXRUNTIME, Precision.INT8),
    (Target.ONNXRUNTIME, Precision.INT4),
    (Target.TENSORRT_LLM, Precision.BF16),
)
DATED = "{{ 'Today is ' + strftime_now('%Y-%m-%d %H:%M') }}{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"


class Parent:
    """A worker that lets everything happen."""

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        pass

    def expect(self, needs: Estimate) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    def may_build(self, key: str) -> bool:
        return True

    def may_store(self, digests: tuple[str, ...]) -> bool:
        return True


def build(folder: Path, home: Path, uri: str = "", **changes: Any) -> Manifest:
    """The manifest of a build whose work and store lie under `home`."""
    work = home / "work"
    work.mkdir(parents=True, exist_ok=True)
    spec = ModelSpec(name="demo", source=Source(uri=uri or str(folder)), cache=CACHE).model_copy(update=changes)
    order = Order(spec=spec, work=work, source_roots=(folder.parent,), store_url=str(home / "store"))
    manifest = run_build(order, Parent())
    assert manifest is not None
    return manifest


def manifest_of(folder: str, home: str, target: str, precision: str) -> str:
    """Of a build in that target and precision, as it is stored."""
    built = build(Path(folder), Path(home), target=Target(target), precision=Precision(precision))
    return built.canonical().decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build(model, tmp_path_factory.mktemp("home"))


def _without_place(manifest: Manifest) -> Manifest:
    spec = manifest.spec.model_copy(update={"name": "", "source": Source(uri="-")})
    return manifest.model_copy(update={"name": "", "spec": spec})


def test_another_folder_another_name_and_other_engines_give_the_same_to_the_last_byte(
    model: Path, built: Manifest, tmp_path: Path
) -> None:
    folder = copy_checkpoint(model, tmp_path / "elsewhere" / "copied model")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    (folder / "README.md").write_text("what nobody reads")
    build(write_checkpoint(tmp_path / "other", seed=9), tmp_path)
    again = build(folder, tmp_path, folder.as_uri(), name="other")
    assert (again.name, again.spec.source.uri) == ("other", folder.as_uri())
    assert _without_place(again).canonical() == _without_place(built).canonical()


def _tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def _set(name: str, field: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return change


def _add(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def _space(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text() + " ")

    return change


@pytest.mark.parametrize(
    "change",
    [
        _tensor,
        _set("config.json", "rms_norm_eps", 1.1e-5),
        _set("generation_config.json", "temperature", 0.5),
        _space("tokenizer.json"),
        _set("tokenizer_config.json", "add_bos_token", True),
        _add("chat_template.jinja", "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"),
    ],
    ids=["a bit of a tensor", "config", "generation config", "tokenizer", "tokenizer config", "chat template"],
)
def test_a_changed_file_is_another_key_and_another_engine(
    model: Path, built: Manifest, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = copy_checkpoint(model, tmp_path / "model")
    change(folder)
    other = build(folder, tmp_path)
    assert other.build_key != built.build_key
    assert _without_place(other) != _without_place(built)


@pytest.mark.long
def test_another_block_is_another_key_and_other_weights_which_verify(model: Path, tmp_path: Path) -> None:
    made = [
        build(
            model,
            tmp_path,
            precision=Precision.INT4,
            options=BuildOptions(onnxruntime=OnnxRuntimeOptions.model_validate({"int4_block": block})),
        )
        for block in (32, 64, 128)
    ]
    assert len({manifest.build_key for manifest in made}) == 3
    for path in (GRAPH_PATH, WEIGHTS_PATH):
        assert len({file.digest for manifest in made for file in manifest.files if file.path == path}) == 3
    assert all(0 < manifest.verification["divergence"] < 1e-3 for manifest in made)


def test_a_manifest_proves_its_own_key_and_digest(built: Manifest) -> None:
    assert build_key(built.source_files, built.spec, built.tool_versions) == built.build_key
    read = Manifest.model_validate_json(built.canonical())
    assert digest_of(read.canonical()) == digest_of(built.canonical())


def test_the_manifest_of_a_build_is_what_its_schema_says(built: Manifest) -> None:
    path = Path(manifest_module.__file__).with_name("manifest.schema.json")
    Draft202012Validator(json.loads(path.read_text())).validate(json.loads(built.canonical()))


@pytest.mark.long
@pytest.mark.parametrize("choice", one_in(len(CHOICES), CHOICES))
def test_a_process_that_hashes_differently_and_has_one_core_writes_the_same_bytes(
    model: Path, tmp_path: Path, choice: tuple[Target, Precision]
) -> None:
    target, precision = choice
    cores = os.sched_getaffinity(0)
    one = _in_a_process((str(model), str(tmp_path / "1"), target.value, precision.value), "1", cores)
    assert f'"{precision}"' in one
    assert _in_a_process((str(model), str(tmp_path / "2"), target.value, precision.value), "2", {min(cores)}) == one


def _in_a_process(choice: tuple[str, ...], seed: str, cores: set[int]) -> str:
    code = f"import os; os.sched_setaffinity(0, {cores}); from {__name__} import *; print(manifest_of(*{choice}))"
    root = Path(__file__).resolve().parents[4]
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _at(monkeypatch: pytest.MonkeyPatch, day: int, hour: int) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls(2031, 5, day, hour, tzinfo=tz or UTC)

    monkeypatch.setattr(resolve, "datetime", Clock)


def test_the_date_is_part_of_the_key_where_the_template_tells_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 17, 3)
    morning = build(model, tmp_path, chat_template=DATED)
    _at(monkeypatch, 17, 22)
    assert build(model, tmp_path, chat_template=DATED) == morning, "a template knows the day, not the hour"
    assert morning.tool_versions["date"] == "2031-05-17"
    _at(monkeypatch, 18, 3)
    assert build(model, tmp_path, chat_template=DATED).build_key != morning.build_key


def test_it_is_so_where_the_template_is_the_checkpoints_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_checkpoint(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(DATED)
    _at(monkeypatch, 17, 3)
    assert build(folder, tmp_path).tool_versions["date"] == "2031-05-17"
    assert "date" not in build(folder, tmp_path, chat_template="none").tool_versions


def test_elsewhere_the_date_does_not_matter(
    model: Path, built: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 17, 3)
    assert build(model, tmp_path).canonical() == built.canonical()
