"""A large checkpoint, of which a build takes its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.builder import BuilderClient
from tests.service.builder.failures.causes import linked


@pytest.fixture(scope="package")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 MiB of weights: there is time to do something to a build of it."""
    folder = tmp_path_factory.mktemp("large") / "model"
    return write_checkpoint(folder, hidden=512, layers=1, vocab=32_768, dtype="bfloat16", tokenizer=False)


@pytest.fixture
def busy(large: Path, tmp_path: Path, client: BuilderClient) -> BuilderClient:
    """Its specs name the large checkpoint."""
    return BuilderClient(client.builds, client.catalog, linked(large, tmp_path))
