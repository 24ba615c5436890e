from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.members import Member
from bench.peers.process import PeerFailed, PeerProcess


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[PeerProcess]:
    process = PeerProcess(Member("x", "llama", "q4_0", ""), tmp_path, tmp_path / "x.log", limit_s=60)
    yield process
    process.stop()


def test_an_environment_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"not installed: no .*nowhere/bin/python; run with --install"):
        PeerProcess(Member("x", "llama", "q4_0", "nowhere"), tmp_path, tmp_path / "x.log", limit_s=1)


def test_an_error_of_a_peer_is_its_answer_and_it_goes_on(peer: PeerProcess) -> None:
    for _ in range(2):  # llama.cpp is not installed where this test runs
        job = {"checkpoint": ".", "scratch": ".", "sinks": 4, "cache": 64, "chunk": 1, "threads": 1, "variant": "q4_0"}
        with pytest.raises(PeerFailed, match="ModuleNotFoundError: No module named 'llama_cpp'"):
            peer.ask("load", **job)
    assert peer.ask("memory") > 0


def test_a_process_that_dies_says_how(peer: PeerProcess) -> None:
    peer.ask("memory")
    peer._process.kill()
    with pytest.raises(PeerFailed, match="killed by SIGKILL"):
        peer.ask("memory")


def test_a_peer_without_an_answer_is_ended(tmp_path: Path) -> None:
    stuck = PeerProcess(Member("x", "llama", "q4_0", ""), tmp_path, tmp_path / "x.log", limit_s=0)
    with pytest.raises(PeerFailed, match="no answer to 'memory' in 0 s"):
        stuck.ask("memory")
    assert stuck._process.poll() is not None


def test_a_peer_of_another_tree_runs_the_bench_that_lies_there(tmp_path: Path) -> None:
    peers = tmp_path / "bench" / "peers"
    peers.mkdir(parents=True)
    (peers / "worker.py").write_text("""print('{"result": "then"}', flush=True)\ninput()\n""")
    process = PeerProcess(Member("x", "ours", "int8", ""), tmp_path, tmp_path / "x.log", limit_s=60, tree=tmp_path)
    assert process.ask("versions") == "then"
    process.end()


def test_an_end_is_waited_for(peer: PeerProcess) -> None:
    peer.ask("memory")
    peer.end()
    assert peer._process.returncode == 0
