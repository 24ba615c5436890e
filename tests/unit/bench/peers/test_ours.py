from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.checkpoint import checkpoint
from bench.peers.engines.ours import Ours, load
from bench.peers.peer import Job
from bench.peers.shapes import SHAPES
from builder_service.families.registry import read_model


def loaded(scratch: Path, *, chunk: int) -> Ours:
    model = checkpoint(SHAPES["demo"], scratch)
    peer = load(Job(model, scratch / str(chunk), sinks=4, cache=64, chunk=chunk, threads=1, variant="fp32"))
    assert isinstance(peer, Ours)
    return peer


def said(peer: Ours, turns: int) -> list[int]:
    """The last token of each turn."""
    tokens = []
    for _ in range(turns):
        turn = peer.turn(prompt=21, new=6)
        assert 0 < turn.first_s <= turn.total_s
        tokens.append(peer._next[0])
    return tokens


def test_a_conversation_far_past_its_window_does_not_depend_on_how_it_is_fed(tmp_path: Path) -> None:
    assert said(loaded(tmp_path, chunk=16), turns=8) == said(loaded(tmp_path, chunk=5), turns=8)


def test_sessions_that_were_filled_go_on_as_one_alone_does(tmp_path: Path) -> None:
    peer = loaded(tmp_path, chunk=16)
    peer.fill(1, 0)
    alone = [(peer.step(), peer._next[0])[1] for _ in range(5)]
    peer.fill(3, 0)
    together = [(peer.step(), tuple(peer._next[:3]))[1] for _ in range(5)]
    assert together == [(token,) * 3 for token in alone]


def test_a_filled_window_is_full(tmp_path: Path) -> None:
    peer = loaded(tmp_path, chunk=16)
    peer.fill(2, 0)
    assert peer._window.evicted(peer._positions[1]) > 0


def test_versions_name_what_runs(tmp_path: Path) -> None:
    assert set(loaded(tmp_path, chunk=16).versions) == {"sinkserve", "onnxruntime"}


@pytest.mark.parametrize(
    ("name", "heads", "kv_heads"), [("smollm-135m", 9, 3), ("qwen2.5-0.5b", 14, 2), ("tinyllama-1.1b", 32, 4)]
)
def test_shapes_can_be_built(name: str, heads: int, kv_heads: int) -> None:
    architecture = read_model(SHAPES[name].config).architecture
    assert (architecture.heads, architecture.kv_heads) == (heads, kv_heads)
    assert architecture.head_dim == 64
