"""What quantization costs, ours and llama.cpp's of the same weights, on the same tokens in one run.

    python bench/peers/quality.py MODEL.gguf --text TEXT.txt [--tokens 20000] [--threads 1] [--json OUT.json]

All read the text in pieces that their caches hold, each from an empty cache, so that all see the same tokens; the
reference is the file's weights in fp32. llama.cpp takes part where it is installed, which is what
`python bench/peers/run.py --install` does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.peers.engines.ours_file import reading, workbench
from bench.peers.members import Member
from bench.peers.process import ROOT, PeerFailed, PeerProcess
from common.engine.engine import FloatArray
from sinkserve.evaluation.quality import Array, Figure, compare, summarize

PRECISIONS = ("int8", "int4", "keep")
PEERS = tuple(
    Member(f"llama.cpp {name}", "llama_file", variant, "llama")
    for name, variant in (("Q8_0", "q8_0"), ("Q4_K_M", "q4_k_m"), ("the file", "as it is"))
)
PIECE = 256
NEAR = 64
"""Tokens on which keep and llama.cpp are compared logit by logit."""
LIMIT_S = 900.0

Read = Callable[[list[int]], FloatArray]
"""Logits [token, vocabulary] after each token of a piece."""


@dataclass(frozen=True)
class Row:
    """One way to hold the weights."""

    name: str
    perplexity: float
    loss: Figure
    divergence: Figure
    same_best: Figure


@dataclass(frozen=True)
class Near:
    """keep against llama.cpp on the same blocks: shares of the largest logit, and of their spread; nats."""

    largest: float
    root_mean_square: float
    divergence: float


def main() -> int:
    arguments = _arguments()
    with ExitStack() as opened:
        bench = {name: opened.enter_context(workbench(arguments.model, name, arguments.threads)) for name in PRECISIONS}
        tokens = bench["int8"].encode(arguments.text.read_text())[: arguments.tokens]
        exact = reading(opened.enter_context(bench["int8"].in_fp32()))
        readers = {f"ours {name}": reading(found.engine) for name, found in bench.items()}
        for member in PEERS:
            try:
                readers[member.name] = opened.enter_context(_peer(member, arguments))
            except PeerFailed as failed:
                print(f"{member.name} is left out: {failed}", file=sys.stderr)
        rows, perplexity, near = measure(exact, readers, tokens)
    _show(rows, perplexity, near, len(tokens))
    if arguments.json:
        document = {"fp32": perplexity, "tokens": len(tokens), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(document | {"near": near and asdict(near)}, indent=1) + "\n")
    return 0


def measure(exact: Read, readers: dict[str, Read], tokens: Sequence[int]) -> tuple[list[Row], float, Near | None]:
    """Rows by name, the perplexity of the reference, and how near keep is to llama.cpp where both are there."""
    pairs: dict[str, list[Array]] = {name: [] for name in readers}
    near: Near | None = None
    pieces = [list(tokens[start : start + PIECE]) for start in range(0, len(tokens), PIECE)]
    for index, piece in enumerate(piece for piece in pieces if len(piece) > 1):
        wanted, following = exact(piece)[:-1], np.array(piece[1:])
        found = {name: read(piece)[:-1] for name, read in readers.items()}
        for name, logits in found.items():
            pairs[name].append(compare(logits, wanted, following))
        if index == 0 and "llama.cpp the file" in found:
            near = nearness(found["ours keep"][:NEAR], found["llama.cpp the file"][:NEAR])
        print(f"{index + 1} of {len(pieces)} pieces", file=sys.stderr, flush=True)
    summaries = {name: summarize(np.concatenate(parts)) for name, parts in pairs.items()}
    rows = [
        Row(name, found.perplexity, found.loss, found.divergence, found.same_best) for name, found in summaries.items()
    ]
    return rows, next(iter(summaries.values())).fp32_perplexity, near


def nearness(found: FloatArray, wanted: FloatArray) -> Near:
    """How far logits [token, vocabulary] are from others."""
    apart = found.astype(np.float64) - wanted
    pairs = compare(found, wanted, wanted.argmax(axis=1))
    return Near(
        largest=float(np.abs(apart).max() / np.abs(wanted).max()),
        root_mean_square=float(np.sqrt((apart**2).mean()) / wanted.std()),
        divergence=float(pairs[:, 2].mean()),
    )


@contextmanager
def _peer(member: Member, arguments: argparse.Namespace) -> Iterator[Read]:
    """A peer that is loaded. Raises PeerFailed."""
    scratch: Path = arguments.folder
    scratch.mkdir(parents=True, exist_ok=True)
    process = PeerProcess(member, arguments.environments, scratch / f"{member.variant}.log", LIMIT_S)
    with tempfile.NamedTemporaryFile(prefix="logits-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as out:

        def read(piece: list[int]) -> FloatArray:
            process.ask("logits", tokens=piece, out=out.name)
            return np.fromfile(out.name, np.float32).reshape(len(piece), -1)

        try:
            job = {"checkpoint": str(arguments.model), "scratch": str(scratch), "variant": member.variant}
            process.ask("load", **job, sinks=0, cache=PIECE, chunk=PIECE, threads=arguments.threads)
            yield read
        finally:
            process.stop()


def _show(rows: Sequence[Row], perplexity: float, near: Near | None, tokens: int) -> None:
    print(f"\n{tokens} tokens in pieces of {PIECE}\n\n| | perplexity | divergence | same best token |")
    print(f"| --- | --- | --- | --- |\n| fp32 | {perplexity:.3f} | | |")
    for row in rows:
        loss = f"{row.loss.mean:+.2%} ± {100 * row.loss.error:.2f}"
        divergence = f"{row.divergence.mean:.4f} ± {row.divergence.error:.4f}"
        best = f"{row.same_best.mean:.2%} ± {100 * row.same_best.error:.2f}"
        print(f"| {row.name} | {row.perplexity:.3f}, {loss} | {divergence} | {best} |")
    if near is not None:
        figures = f"largest {near.largest:.3f}, root mean square {near.root_mean_square:.3f}"
        print(f"\nkeep against llama.cpp on the file, {NEAR} tokens: {figures}, divergence {near.divergence:.1e}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file with quantized weights")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "quality", help="for llama.cpp")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
