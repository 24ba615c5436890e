"""A tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples.checkpoints import write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")
