"""One stream of four million tokens: what the model makes of each, the time it takes, and memory, block by block.

    python bench/engine/endless.py [--tokens 4000000] [--state build/endless]

The demo's dialogues, new ones in every block, go through one slot of the demo model, a token a step, as in
StreamingLLM (arXiv 2309.17453, figure 5). It takes about an hour, and goes on from its last whole block whenever it is
started again with the same --state. Prints a table; writes endless.json, .png and .svg to --output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.engine.exported import exported_engine
from builder_service.model.weight_format import WeightFormat
from common.digest import digest_file
from common.engine.engine import Feed, FloatArray
from common.spec.manifest import GRAPH_PATH, TOKENIZER_PATH
from common.spec.yaml_file import read_spec_file
from common.window import Geometry, SessionWindow
from runtime_service.storage.snapshot_format import from_bytes, to_bytes
from sinkserve.evaluation.perplexity import log_probability, perplexity
from sinkserve.evaluation.report import write_document

DEMO = Path(__file__).resolve().parents[2] / "demo"
TURNS = 2400
"""Turns of dialogue in a block: some 40,000 tokens."""
FIGURES = (
    ("perplexity", "perplexity"),
    ("ms a token", "token_ms"),
    ("processor, ms a token", "processor_ms"),
    ("MiB", "memory_mib"),
)
DRAWN = tuple(figure for figure in FIGURES if figure[1] != "token_ms")
PICKS: dict[str, Callable[[list[float]], float]] = {
    "first block": itemgetter(0),
    "last block": itemgetter(-1),
    "least": min,
    "median": median,
    "most": max,
}


@dataclass(frozen=True)
class Block:
    """What a block of the stream showed; `position` is where it ended."""

    position: int
    perplexity: float
    token_ms: float
    """Median."""
    processor_ms: float
    """Of a token, in the mean: what others on the machine do changes it little."""
    memory_mib: float
    took_s: float


@dataclass(frozen=True)
class Endless:
    """The whole run."""

    engine: str
    sinks: int
    window: int
    threads: int
    blocks: tuple[Block, ...]

    @property
    def took_s(self) -> float:
        """Seconds of all blocks."""
        return sum(block.took_s for block in self.blocks)


class Stream:
    """One session whose tokens are all given, on disk after every block."""

    def __init__(self, state: Path, threads: int) -> None:
        state.mkdir(parents=True, exist_ok=True)
        spec = read_spec_file(DEMO / "spec.yaml")
        cache = spec.cache
        geometry = Geometry(cache.sink_tokens, cache.window_tokens, cache.chunk_tokens, slots=1)
        self._engine, _ = exported_engine(DEMO / "model", geometry, WeightFormat.from_spec(spec), state, threads)
        self._tokenizer = Tokenizer.from_file(str(DEMO / "model" / TOKENIZER_PATH))
        self._graph, self._kept = digest_file(state / GRAPH_PATH), state / "stream.bin"
        self._window = SessionWindow(geometry.sinks, geometry.window)
        self._position = 0
        self._logits: FloatArray | None = None
        self.run = Endless(f"demo, {spec.precision}", geometry.sinks, geometry.window, threads, ())
        if self._kept.exists():
            self._resume()

    def read_block(self) -> Block:
        """Feed the next block, keep the state that it leaves, and say what it showed."""
        tokens, scores, times, start, processor_s = self._tokens(), [], [], time.perf_counter(), 0.0
        for token in tokens:
            if self._logits is not None:
                scores.append(log_probability(self._logits, token)[0])
            before, processor_before = time.perf_counter(), time.process_time()
            self._logits = self._engine.step((Feed(0, self._position, self._window, (token,)),))
            times.append(1e3 * (time.perf_counter() - before))
            processor_s += time.process_time() - processor_before
            self._position += 1
        block = Block(
            position=self._position,
            perplexity=perplexity(np.array(scores)),
            token_ms=median(times),
            processor_ms=1e3 * processor_s / len(tokens),
            memory_mib=psutil.Process().memory_info().rss / 2**20,
            took_s=time.perf_counter() - start,
        )
        self.run = replace(self.run, blocks=(*self.run.blocks, block))
        self._keep()
        return block

    def _tokens(self) -> list[int]:
        """A conversation that no other block has; only the first begins one in the model's eyes."""
        block = len(self.run.blocks)
        command = [
            sys.executable,
            str(DEMO / "training" / "transcript.py"),
            "--turns",
            str(TURNS),
            "--seed",
            f"endless {block}",
        ]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if block == 0 else ids[1:]

    def _keep(self) -> None:
        """Blocks and state together, or as they were before."""
        blocks = json.dumps([asdict(block) for block in self.run.blocks]).encode()
        state = to_bytes(self._graph, self._engine.export_slot(0, self._position, self._window))
        aside = self._kept.with_suffix(".new")
        aside.write_bytes(blocks + b"\n" + state)
        aside.replace(self._kept)

    def _resume(self) -> None:
        blocks, _, state_bytes = self._kept.read_bytes().partition(b"\n")
        state = from_bytes(self._graph, state_bytes)
        self._engine.import_slot(0, state)
        self._position = state.position
        self.run = replace(self.run, blocks=tuple(Block(**block) for block in json.loads(blocks)))


def main() -> int:
    arguments = _arguments()
    console = Console()
    stream = Stream(arguments.state, arguments.threads)
    while not stream.run.blocks or stream.run.blocks[-1].position < arguments.tokens:
        console.print(_line(stream.read_block()))
    show(stream.run, console)
    write_document(stream.run, arguments.output, "endless")
    draw(stream.run, arguments.output)
    return 0


def _line(block: Block) -> str:
    return (
        f"position {block.position:,}: perplexity {block.perplexity:.4f}, {block.token_ms:.3f} ms a token, "
        f"{block.memory_mib:.1f} MiB"
    )


def show(run: Endless, console: Console) -> None:
    """What blocks showed, figure by figure."""
    table = Table("", *(label for label, _ in FIGURES))
    columns = [[getattr(block, field) for block in run.blocks] for _, field in FIGURES]
    for name, pick in PICKS.items():
        table.add_row(name, *(f"{pick(column):.4g}" for column in columns))
    console.print(table)
    console.print(f"{run.blocks[-1].position:,} tokens in {run.took_s / 60:.0f} minutes")


def draw(run: Endless, folder: Path) -> None:
    """Three curves over the position, from zero, so that flat looks flat."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second that a test of the figures need not wait

    from sinkserve.evaluation.charts import save  # noqa: PLC0415 - likewise

    figure = Figure(figsize=(8.0, 5.4), layout="constrained")
    positions = [block.position / 1e6 for block in run.blocks]
    for index, (label, field) in enumerate(DRAWN, start=1):
        axes = figure.add_subplot(len(DRAWN), 1, index)
        values = [getattr(block, field) for block in run.blocks]
        axes.plot(positions, values, color="tab:blue", linewidth=1.2)
        axes.set_ylim(0, 1.25 * max(values))
        axes.set_ylabel(label, fontsize="small")
        axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("position, millions of tokens")
    save(figure, folder, "endless")


def _arguments() -> argparse.Namespace:
    root = DEMO.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, default=root / "build" / "endless")
    parser.add_argument("--output", type=Path, default=root / "build" / "endless")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
