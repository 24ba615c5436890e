"""The stream of millions of tokens, in a small one: what is resumed goes on as if it had never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.engine import endless


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endless, "TURNS", 12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine of a stream that nothing was fed to."""
    endless.Stream(folder := tmp_path_factory.mktemp("exported"), threads=1)
    return folder


@pytest.mark.nightly
def test_a_stream_that_was_stopped_goes_on_where_its_last_block_ended(tmp_path: Path, exported: Path) -> None:
    for name in ("whole", "stopped"):
        shutil.copytree(exported, tmp_path / name)
    whole = endless.Stream(tmp_path / "whole", threads=1)
    expected = [whole.read_block() for _ in range(3)]
    for _ in range(3):
        endless.Stream(tmp_path / "stopped", threads=1).read_block()
    found = endless.Stream(tmp_path / "stopped", threads=1).run.blocks
    assert [block.position for block in found] == [block.position for block in expected]
    assert found[0].perplexity == expected[0].perplexity
    # a block that was resumed cannot judge its first token
    assert [block.perplexity for block in found] == pytest.approx([block.perplexity for block in expected], rel=0.05)


@pytest.mark.long
def test_blocks_are_other_conversations(tmp_path: Path, exported: Path) -> None:
    stream = endless.Stream(shutil.copytree(exported, tmp_path / "stream"), threads=1)
    assert stream.read_block().perplexity != stream.read_block().perplexity
