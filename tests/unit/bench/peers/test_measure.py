from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from bench.peers.measure import Measuring, Plan
from bench.peers.process import PeerFailed, PeerProcess
from bench.peers.readings import FIRST, TURN, Reading, find

PLAN = Plan(rounds=2, decode_s=1, sessions=(1, 4), prefill=(64, 256), turns=3, prompt=8, new=10, most_s=100)


class Scripted:
    """Answers as it is told to, and writes down who was asked."""

    def __init__(self, name: str, asked: list[tuple[str, str]], answers: Mapping[str, Any]) -> None:
        self._name = name
        self._asked = asked
        self._answers = {"memory": 1 << 20, "prefill": 0.5, "fill": None, "decode": [0.1, 0.2, 0.3]} | dict(answers)
        self._answers.setdefault("turn", {"first_s": 1.0, "total_s": 5.0})

    def ask(self, do: str, **_: object) -> object:
        self._asked.append((self._name, do))
        if isinstance(answer := self._answers[do], Exception):
            raise answer
        return answer


def measured(plan: Plan, **answers: Mapping[str, Any]) -> tuple[list[Reading], list[tuple[str, str]]]:
    """Readings with a cache of 200 rows, and who was asked for what."""
    asked: list[tuple[str, str]] = []
    peers = {name: cast(PeerProcess, Scripted(name, asked, each)) for name, each in answers.items()}
    return Measuring("demo", plan, peers, lambda _: None).run(200), asked


def values(readings: list[Reading], member: str, measure: str) -> tuple[float, ...] | None:
    found = find(readings, "demo", member, measure)
    return found.values if found else None


def test_peers_take_turns_in_every_measure() -> None:
    _, asked = measured(PLAN, a={}, b={})
    decoding = [name for name, do in asked if do == "decode"]
    assert decoding == ["a", "b"] * 4  # two rounds for 1 session, two for 4
    assert [name for name, do in asked if do == "prefill"] == ["a", "b"] * 3  # one to warm up; 256 do not fit
    assert [name for name, do in asked if do == "turn"] == ["a", "b"] * 3


def test_figures_are_of_all_sessions_and_of_the_median_step() -> None:
    readings, _ = measured(PLAN, a={})
    assert values(readings, "a", "prefill 64") == (128, 128)
    assert values(readings, "a", "decode 1") == (5, 5)
    assert values(readings, "a", "decode 4") == (20, 20)
    assert values(readings, "a", FIRST) == (1, 1, 1)
    assert values(readings, "a", TURN) == (5, 5, 5)
    assert values(readings, "a", "conversation") == (2, 2, 2)
    assert values(readings, "a", "memory, 4 sessions") == (1,)


def test_what_a_peer_cannot_do_is_told_and_the_others_go_on() -> None:
    readings, asked = measured(PLAN, a={"prefill": PeerFailed("no memory")}, b={})
    assert Reading("demo", "a", "prefill 64", "", error="no memory") in readings
    assert values(readings, "b", "prefill 64") == (128, 128)
    assert asked.count(("a", "prefill")) == 1
    assert values(readings, "a", "decode 1") == (5, 5)


def test_who_cannot_fill_its_caches_does_not_decode() -> None:
    _, asked = measured(dataclasses.replace(PLAN, sessions=(8,)), a={"fill": PeerFailed("left out")}, b={})
    assert [name for name, do in asked if do == "decode"] == ["b", "b"]


def test_a_slow_peer_leaves_the_conversation_with_the_turns_it_had() -> None:
    slow = {"turn": {"first_s": 60.0, "total_s": 70.0}}
    readings, _ = measured(PLAN, a={}, b=slow)
    assert values(readings, "b", TURN) == (70, 70)
    assert values(readings, "a", TURN) == (5, 5, 5)
