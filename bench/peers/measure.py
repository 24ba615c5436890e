"""A run over one shape: every measure from all peers by turns, A B C A B C, so that all see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from bench.peers.process import PeerFailed, PeerProcess
from bench.peers.readings import FIRST, TURN, Reading

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is measured; times are seconds."""

    rounds: int
    decode_s: float
    """Of decoding, a round, a peer, a number of sessions."""
    sessions: tuple[int, ...]
    prefill: tuple[int, ...]
    turns: int
    prompt: int
    new: int
    most_s: float
    """A peer that takes longer over a conversation leaves it there; one that would to fill its caches does not."""


@dataclass
class Measuring:
    """Takes the measures of `plan` from `peers`, by name; a peer that fails in one is asked again in the next."""

    shape: str
    plan: Plan
    peers: dict[str, PeerProcess]
    say: Callable[[str], None]
    readings: list[Reading] = field(default_factory=list)

    def run(self, cache: int) -> list[Reading]:
        """All measures that fit a cache of so many rows."""
        self._memory("memory, loaded")
        for count in self.plan.prefill:
            if count <= cache:
                self._prefill(count)
        if self.plan.turns:
            self._conversation()
        for sessions in self.plan.sessions:
            self._decode(sessions)
        return self.readings

    def _prefill(self, count: int) -> None:
        """The first round warms up."""
        measure = f"prefill {count}"
        rounds = self._by_turns(measure, self.peers, lambda peer: float(peer.ask("prefill", count=count)), more=1)
        for name, seconds in rounds.items():
            self._note(name, measure, "tokens/s", (count / each for each in seconds[1:]))

    def _decode(self, sessions: int) -> None:
        """Tokens a second of all sessions together, by the median step of each round."""
        measure = f"decode {sessions}"
        fill = {"sessions": sessions, "most_s": self.plan.most_s}
        ready = self._each(measure, self.peers, lambda peer: peer.ask("fill", **fill))
        filled = {name: self.peers[name] for name in ready}
        rounds = self._by_turns(measure, filled, self._step)
        for name, steps in rounds.items():
            self._note(name, measure, "tokens/s", (sessions / step for step in steps))
        self._memory(f"memory, {sessions} sessions")

    def _conversation(self) -> None:
        """Turn by turn; a reading of every turn, as rounds of one measure would hide that it grows."""
        taking, used = dict(self.peers), dict.fromkeys(self.peers, 0.0)
        firsts: dict[str, list[float]] = {name: [] for name in taking}
        totals: dict[str, list[float]] = {name: [] for name in taking}
        for number in range(self.plan.turns):
            self.say(f"{self.shape}: turn {number + 1} of {self.plan.turns}")
            turns = self._each("conversation", taking, self._turn)
            for name, (first, total) in turns.items():
                firsts[name].append(first)
                totals[name].append(total)
                used[name] += total
            taking = {name: peer for name, peer in taking.items() if name in turns and used[name] < self.plan.most_s}
        for name in self.peers:
            if totals[name]:
                self._note(name, FIRST, "s", firsts[name])
                self._note(name, TURN, "s", totals[name])
                self._note(name, "conversation", "tokens/s", (self.plan.new / each for each in totals[name]))

    def _turn(self, peer: PeerProcess) -> tuple[float, float]:
        turn = peer.ask("turn", prompt=self.plan.prompt, new=self.plan.new)
        return turn["first_s"], turn["total_s"]

    def _memory(self, measure: str) -> None:
        for name, size in self._each(measure, self.peers, lambda peer: int(peer.ask("memory"))).items():
            self._note(name, measure, "MiB", [size / 2**20])

    def _step(self, peer: PeerProcess) -> float:
        return float(median(peer.ask("decode", seconds=self.plan.decode_s)))

    def _by_turns(
        self, measure: str, peers: dict[str, PeerProcess], act: Callable[[PeerProcess], float], more: int = 0
    ) -> dict[str, list[float]]:
        """`act` on every peer, `rounds` times and `more`; those that fail drop out."""
        values: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(self.plan.rounds + more):
            answered = self._each(measure, {name: peers[name] for name in values}, act)
            values = {name: [*values[name], value] for name, value in answered.items()}
        return values

    def _each(self, measure: str, peers: dict[str, PeerProcess], act: Callable[[PeerProcess], T]) -> dict[str, T]:
        """What `act` gives for every peer; a failure becomes a reading."""
        answers: dict[str, T] = {}
        for name, peer in peers.items():
            self.say(f"{self.shape}: {measure}: {name}")
            try:
                answers[name] = act(peer)
            except PeerFailed as error:
                self.readings.append(Reading(self.shape, name, measure, "", error=str(error)))
        return answers

    def _note(self, name: str, measure: str, unit: str, values: Iterable[float]) -> None:
        self.readings.append(Reading(self.shape, name, measure, unit, tuple(values)))
