from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from bench.peers import conversation
from bench.peers.peer import CLOCK
from bench.peers.process import ROOT, PeerFailed, PeerProcess
from bench.peers.talk import Heard, Said, offspring, processor_seconds


class Scripted:
    """Says the same to everything, and writes down what it was told."""

    def __init__(self, said: Said) -> None:
        self.said, self.told = said, list[object]()

    def ask(self, do: str, **told: object) -> dict[str, object]:
        assert do == "say"
        self.told.append(told)
        return vars(self.said)


def test_a_reply_is_its_pieces_and_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLOCK, "wall")
    heard = Heard(list)
    heard.add("one", 1)
    first = heard.said()
    heard.add(" and two", 3)
    said = heard.said()
    assert (said.text, said.tokens) == ("one and two", 4)
    assert 0 < said.first_s == first.first_s <= said.total_s


def test_the_first_token_is_not_in_the_rate() -> None:
    assert Said(first_s=2, total_s=4, tokens=11, text="").rate == 5
    assert Said(first_s=2, total_s=2, tokens=1, text="").rate == 0


def test_processors_are_counted_for_the_processes_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLOCK, "cpu")
    assert processor_seconds(os.getpid()) > 0
    heard = Heard(list)
    heard.add("")
    assert heard.said().total_s == 0


def test_offspring_are_children_and_theirs() -> None:
    command = [
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1); input()'])",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the grandchild runs
        found = offspring(os.getpid())
        assert child.pid in found
        assert set(offspring(child.pid)) < set(found)
        assert len(offspring(child.pid)) == 1
        child.communicate(b"\n")


def test_all_are_told_the_same_and_compared_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    peers = {"ours": Scripted(Said(0.1, 1.1, 11, "a")), "other": Scripted(Said(0.2, 2.2, 11, "b"))}
    conversation.converse(["x", "y"], cast(dict[str, PeerProcess], peers), new=11)
    assert peers["ours"].told == peers["other"].told == [{"text": "x", "new": 11}, {"text": "y", "new": 11}]
    printed = capsys.readouterr().out
    assert "| 2 | 100 | 10.0 | 200 | 5.0 |" in printed
    assert "ours to other: time to the first token 0.50, tokens a second after it 2.00 (medians)" in printed


def test_replies_of_one_token_have_no_rate_to_compare() -> None:
    one = [Said(0.1, 0.1, 1, "a")]
    assert conversation.compared("a", one, "b", one).endswith("first token 1.00, tokens a second after it - (medians)")


def test_another_revision_has_its_product_and_the_bench_of_now(tmp_path: Path) -> None:
    for name in ("bench", "common"):
        (tmp_path / name).mkdir()
    before = conversation.TALKERS["before"]
    with conversation.tree_of(before, tmp_path) as tree:
        assert (tree / "bench").resolve() == ROOT / "bench"
        assert (tree / "common").resolve() == tmp_path / "common"
    with pytest.raises(PeerFailed, match="--before names no tree"), conversation.tree_of(before, None):
        pass
    with conversation.tree_of(conversation.TALKERS["ours"], tmp_path) as tree:
        assert tree == ROOT
