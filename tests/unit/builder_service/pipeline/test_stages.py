"""The stages of a build on tiny real checkpoints: in their order, each byte read once, and only what may be."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from builder_service.checkpoint import folder, safetensors
from builder_service.pipeline.pipeline import run_build
from builder_service.queue.build import Stage, overall_progress
from tests.unit.builder_service.pipeline.builds import built, order
from tests.unit.builder_service.pipeline.listener import Listener


def test_every_stage_is_reported_in_its_order_and_ends_whole(model: Path) -> None:
    parent = Listener()
    built(model, parent)
    assert [stage for stage, _ in itertools.groupby(parent.reports, key=lambda report: report[0])] == list(Stage)
    shares = [overall_progress(stage, done) for stage, done in parent.reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_stages_that_move_bytes_say_how_many(model: Path) -> None:
    parent = Listener()
    manifest = built(model, parent)
    assert parent.bytes == {
        Stage.RESOLVE: sum(file.size_bytes for file in manifest.source_files),
        Stage.QUANTIZE: manifest.weight_bytes,
        Stage.PUBLISH: sum(file.size_bytes for file in manifest.files),
    }
    assert parent.needs is not None
    assert parent.needs.memory_bytes > manifest.weight_bytes


def test_a_build_reads_every_file_of_the_checkpoint_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, read = {path.name for path in folder.open_checkpoint(model).files}, Counter[str]()

    def spy(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def note(path: Path) -> object:
            read[path.name] += 1
            return real(path)

        monkeypatch.setattr(module, name, note)

    for module, name in ((folder, "read_bytes"), (folder, "read_json"), (safetensors, "_read_header")):
        spy(module, name)
    built(model)
    assert read == dict.fromkeys(files, 1)


def test_who_may_not_build_writes_nothing(model: Path) -> None:
    assert run_build(order(model), Listener(builds=False)) is None
    assert list((model.parent / "work").iterdir()) == []


def test_who_may_not_store_stores_nothing(model: Path) -> None:
    parent = Listener(stores=False)
    assert run_build(order(model), parent) is None
    assert len(parent.digests) == 4
    assert not (model.parent / "store").exists()
