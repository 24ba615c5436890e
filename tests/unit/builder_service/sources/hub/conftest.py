"""A hub that runs in this process and fails like the real one, and the files of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.fakes.hub import FakeHub, fake_hub, files_of
from tests.samples.checkpoints import write_checkpoint


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return files_of(write_checkpoint(tmp_path / "model", shards=2))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with fake_hub() as hub:
        yield hub
