"""SinkServe and its peers side by side on this machine: same shapes, same cache, same threads, in one run.

    python bench/peers/run.py --install            # once: an environment for each peer
    python bench/peers/run.py --quick              # minutes: the demo model and SmolLM-135M
    python bench/peers/run.py                      # an hour or more: all shapes
    python bench/peers/run.py --before ../before   # a worktree of another revision, beside what is here
    python bench/peers/run.py --show bench/results/peers.json

Every measure is taken from all peers by turns, so that the ratios hold on a machine whose speed changes. Prints a page
of Markdown and writes all values to --out. A peer that cannot do something is in the list of what was not measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from bench.peers.checkpoint import checkpoint
from bench.peers.measure import Measuring, Plan
from bench.peers.members import MEMBERS, Member
from bench.peers.peer import CLOCK, CLOCKS
from bench.peers.process import ROOT, PeerFailed, PeerProcess
from bench.peers.readings import Reading
from bench.peers.results import Results, machine
from bench.peers.shapes import SHAPES, Shape
from common.spec.model_spec import CacheGeometry

QUICK = Plan(
    rounds=3, decode_s=0.4, sessions=(1, 4, 8, 16, 32), prefill=(64, 256, 1024), turns=20, prompt=24, new=40, most_s=60
)
FULL = Plan(
    rounds=5, decode_s=2, sessions=(1, 4, 8, 16, 32), prefill=(64, 256, 1024), turns=20, prompt=32, new=64, most_s=600
)
QUICK_SHAPES = ("demo", "smollm-135m")
SINKS = 4
ROOM = 2.5
"""Memory that has to be free for a peer, in sizes of the checkpoint; PyTorch in float32 takes the most."""


def main() -> int:
    arguments = _arguments()
    if arguments.install:
        return subprocess.call([Path(__file__).with_name("install.sh"), arguments.env], env=_with_python(), cwd=ROOT)
    if arguments.show:
        print(Results.read(arguments.show).page())
        return 0
    os.environ[CLOCK] = arguments.clock  # of the peers, which inherit it
    results = Results(machine(arguments.threads, arguments.chunk, arguments.clock), _plan(arguments))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was measured by then is written
    try:
        for name in arguments.shape or (QUICK_SHAPES if arguments.quick else SHAPES):
            measure_shape(SHAPES[name], results, arguments)
    finally:
        results.write(arguments.out)
        print(results.page())
    return 0


def measure_shape(shape: Shape, results: Results, arguments: argparse.Namespace) -> None:
    """Load all peers, take all measures, end the peers."""
    folder = arguments.env / "models"
    model = checkpoint(shape, folder)
    peers: dict[str, PeerProcess] = {}
    try:
        for name in arguments.peer or _all(arguments):
            _say(f"{shape.name}: loading {name}")
            try:
                peers[name] = _start(MEMBERS[name], arguments, folder / shape.name)
                results.versions[name] = peers[name].ask("load", **_job(MEMBERS[name], shape, model, folder, arguments))
            except PeerFailed as error:
                results.readings.append(Reading(shape.name, name, "load", "", error=str(error)))
                if name in peers:
                    peers.pop(name).stop()
        Measuring(shape.name, results.plan, peers, _say, results.readings).run(shape.cache)
    finally:
        for peer in peers.values():
            peer.stop()


def _start(member: Member, arguments: argparse.Namespace, folder: Path) -> PeerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    if member.before and not arguments.before:
        raise PeerFailed("--before names no tree")
    tree = arguments.before if member.before else ROOT
    return PeerProcess(member, arguments.env.resolve(), folder / f"{member.name}.log", arguments.limit_s, tree)


def _all(arguments: argparse.Namespace) -> list[str]:
    return [name for name, member in MEMBERS.items() if arguments.before or not member.before]


def _job(member: Member, shape: Shape, model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    ours = f"ours-{arguments.chunk}{'-before' if member.before else ''}"
    scratch = folder / shape.name / (member.environment or ours) / member.variant
    scratch.mkdir(parents=True, exist_ok=True)
    _check_memory(model)
    return {
        "checkpoint": str(model.resolve()),
        "scratch": str(scratch.resolve()),
        "sinks": SINKS,
        "cache": shape.cache,
        "chunk": arguments.chunk,
        "threads": arguments.threads,
        "variant": member.variant,
    }


def _check_memory(model: Path) -> None:
    needed = int(ROOM * sum(file.stat().st_size for file in model.glob("*.safetensors")))
    if (available := psutil.virtual_memory().available) < needed:
        raise PeerFailed(f"left out: {available >> 20} MiB of memory are free, loading may take {needed >> 20}")


def _plan(arguments: argparse.Namespace) -> Plan:
    chosen = {"sessions", "prefill", "rounds", "turns", "decode_s", "most_s"}
    given = {name: value for name, value in vars(arguments).items() if name in chosen and value is not None}
    return replace(QUICK if arguments.quick else FULL, **given)


def _with_python() -> dict[str, str]:
    return os.environ | {"PYTHON": sys.executable}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be repeated; all without it")
    parser.add_argument("--peer", action="append", choices=MEMBERS, help="may be repeated; all without it")
    parser.add_argument("--quick", action="store_true", help="two small shapes, short measures")
    parser.add_argument("--sessions", type=_numbers, help="to decode for, as 1,8,32")
    parser.add_argument("--prefill", type=_numbers, help="tokens, as 64,256")
    parser.add_argument("--turns", type=int, help="of a conversation; 0: none")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--decode-s", type=float, help="seconds of decoding in a round")
    parser.add_argument(
        "--most-s", type=float, help="seconds that a peer may take to fill caches or for a conversation"
    )
    parser.add_argument("--limit-s", type=float, default=1800, help="seconds after which a peer counts as stuck")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu, of one thread, where others work as well")
    parser.add_argument("--chunk", type=int, default=CacheGeometry().chunk_tokens, help="most tokens in a step of ours")
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-peers", help="folder of environments and models")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "peers.json")
    parser.add_argument("--before", type=worktree, help="a worktree of another revision, its stubs generated")
    parser.add_argument("--install", action="store_true", help="make the environments, and nothing else")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print the page of an earlier run, and nothing else")
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads != 1:
        parser.error("--clock cpu counts the waiting of threads for each other: use it with --threads 1")
    return arguments


def worktree(text: str) -> Path:
    """The folder of another revision; raises argparse's error for one without a bench."""
    tree = Path(text).resolve()
    if not (tree / "bench" / "peers" / "worker.py").exists():
        raise argparse.ArgumentTypeError(f"{text} has no bench/peers/worker.py")
    return tree


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
