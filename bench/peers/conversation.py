"""A conversation in text with a real model, as a user meets it: SinkServe's services beside what one could use instead.

    python bench/peers/conversation.py SmolLM2-135M-Instruct.Q4_1.gguf emma.txt --turns 20
    python bench/peers/conversation.py ... --before ../before --talker ours --talker before

All are told the same passages of a text (`bench/emma.py`) by turns, reply greedily and guess no tokens. Ours and
llama.cpp read the GGUF file and keep its weights as they are; what OpenVINO's are says `engines/openvino_talk.py`.
Seconds are those that a peer's processes take of processors, so they hold where others work too; `--clock wall` counts
those on the wall. Our engine is what `sinkserve run` takes. `before`: the same from a worktree of another revision,
whose stubs are generated (`python protos/generate.py` in it).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.members import Member
from bench.peers.peer import CLOCK, CLOCKS
from bench.peers.process import ROOT, PeerFailed, PeerProcess
from bench.peers.run import worktree
from bench.peers.table import table
from bench.peers.talk import AS_RUN, Said

WORDS = 45  # of a passage: some 64 tokens
LIMIT_S = 1800.0
TALKERS = {
    member.name: member
    for member in (
        Member("ours", "ours_talk", AS_RUN, ""),
        Member("before", "ours_talk", "keep", "", before=True),
        Member("llama.cpp", "llama_talk", "as it is", "llama"),
        Member("OpenVINO int8", "openvino_talk", "int8", "openvino"),
        Member("OpenVINO int4", "openvino_talk", "int4", "openvino"),
    )
}


def main() -> int:
    arguments = _arguments()
    os.environ[CLOCK] = arguments.clock  # of the peers, which inherit it
    words = arguments.text.read_text().split()
    passages = [" ".join(words[at : at + WORDS]) for at in range(0, arguments.turns * WORDS, WORDS)]
    with ExitStack() as stack:
        peers = {}
        for name in arguments.talker or [name for name, each in TALKERS.items() if arguments.before or not each.before]:
            try:
                peers[name] = stack.enter_context(_talker(TALKERS[name], arguments))
            except PeerFailed as error:
                print(f"{name} takes no part: {error}", file=sys.stderr)
        converse(passages, peers, arguments.new)
    return 0


@contextmanager
def _talker(member: Member, arguments: argparse.Namespace) -> Iterator[PeerProcess]:
    """A process that has loaded the model."""
    scratch = (
        arguments.env.resolve() / "models" / arguments.model.stem / (member.environment or "ours") / member.variant
    )
    scratch.mkdir(parents=True, exist_ok=True)
    with tree_of(member, arguments.before) as tree:
        peer = PeerProcess(member, arguments.env.resolve(), scratch / "talk.log", LIMIT_S, tree)
        try:
            load = {"checkpoint": str(arguments.model), "scratch": str(scratch), "variant": member.variant}
            peer.ask("load", **load, threads=arguments.threads, sinks=0, cache=0, chunk=0)
            yield peer
        finally:
            peer.end()


@contextmanager
def tree_of(member: Member, before: Path | None) -> Iterator[Path]:
    """Where a peer's product and bench lie: of another revision the product, and the bench as it is now."""
    if not member.before:
        yield ROOT
        return
    if before is None:
        raise PeerFailed("--before names no tree")
    with tempfile.TemporaryDirectory() as mixed:
        for entry in before.iterdir():
            (Path(mixed) / entry.name).symlink_to(ROOT / "bench" if entry.name == "bench" else entry)
        yield Path(mixed)


def converse(passages: Sequence[str], peers: dict[str, PeerProcess], new: int) -> None:
    """Tell every passage to all; print each turn, and the medians of ratios to the first of them."""
    print(table(["turn", *(f"{name}: first token, ms | tokens/s" for name in peers)], []))
    turns: list[dict[str, Said]] = []
    for number, passage in enumerate(passages, 1):
        turns.append({name: Said(**peer.ask("say", text=passage, new=new)) for name, peer in peers.items()})
        figures = (f"{1e3 * said.first_s:.0f} | {said.rate:.1f}" for said in turns[-1].values())
        print(f"| {number} | {' | '.join(figures)} |", flush=True)
    own, *others = peers
    for name in others:
        print(f"\n{compared(own, [turn[own] for turn in turns], name, [turn[name] for turn in turns])}")


def compared(own: str, ours: Sequence[Said], name: str, theirs: Sequence[Said]) -> str:
    """Medians of the ratios of turns; a reply of one token has no rate."""
    pairs = list(zip(ours, theirs, strict=True))
    first = statistics.median(one.first_s / other.first_s for one, other in pairs)
    rates = [one.rate / other.rate for one, other in pairs if one.rate and other.rate]
    rate = f"{statistics.median(rates):.2f}" if rates else "-"
    return f"{own} to {name}: time to the first token {first:.2f}, tokens a second after it {rate} (medians)"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve(), help="a GGUF file")
    parser.add_argument("text", type=Path)
    parser.add_argument("--talker", action="append", choices=TALKERS, help="may be repeated; all without it")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--new", type=int, default=100, help="most tokens of a reply")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=CLOCKS)
    parser.add_argument("--before", type=worktree, help="a worktree of another revision, its stubs generated")
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-peers", help="folder of environments and models")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
