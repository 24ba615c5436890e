"""Attention at a constant amount of keys and values, from many short windows to one long one (Flash-Decoding's figure).

    python bench/engine/constant_kv.py [--rows 65536] [--layers 2] [--json]

One decoding step over N sessions of ROWS / N rows each, all windows full, in a model with the attention of
TinyLlama-1.1B (32 heads, 4 of keys and values, 64 wide) and little else. What the same step takes with next to no rows
is taken off: what is left is attention. All shapes take turns. One session is run on one thread as well: whether every
core works.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.engine.exported import exported_engine
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow, linear_run
from tests.samples.checkpoints import write_checkpoint

SINKS = 4
EMPTY_ROWS = 16
GOAL = 1.15


@dataclass(frozen=True)
class Row:
    """`attention_ms` is the step less what it takes with next to no rows; `ratio` is to the most sessions."""

    sessions: int
    rows_each: int
    step_ms: float
    attention_ms: float
    ratio: float


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="sinkserve-kv-") as scratch:
        rows, threads = measure(arguments, Path(scratch))
    if arguments.json:
        sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows], "one_thread_ratio": threads}) + "\n")
        return
    table = Table(
        "sessions", "rows each", "step, ms", "attention, ms", "ratio", title=f"{arguments.rows:,} rows in all"
    )
    for row in rows:
        figures = f"{row.step_ms:.2f}", f"{row.attention_ms:.2f}", f"{row.ratio:.2f}"
        table.add_row(f"{row.sessions}", f"{row.rows_each:,}", *figures)
    Console().print(table)
    cores = f"at one session, one thread takes {threads:.2f} times as long as {os.cpu_count()}"
    Console().print(f"goal: every ratio within {GOAL}; {cores}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[list[Row], float]:
    """A row for each number of sessions, and how much longer one thread takes at one session."""
    checkpoint = write_checkpoint(
        folder / "model",
        hidden=2048,
        intermediate=64,
        layers=arguments.layers,
        heads=32,
        kv_heads=4,
        vocab=512,
        max_position=arguments.rows + 4096,
        tokenizer=False,
    )
    counts = [count for count in (64, 16, 4, 1) if arguments.rows % count == 0]
    steps = {count: step_of(checkpoint, folder, count, arguments.rows // count) for count in counts}
    empty = {count: step_of(checkpoint, folder, count, EMPTY_ROWS) for count in counts}
    alone = step_of(checkpoint, folder, 1, arguments.rows, threads=1)
    full, none, (one_thread,) = by_turns(list(steps.values()), list(empty.values()), [alone], rounds=arguments.rounds)
    attention = [one - other for one, other in zip(full, none, strict=True)]
    rows = [
        Row(count, arguments.rows // count, full[place], attention[place], attention[place] / attention[0])
        for place, count in enumerate(counts)
    ]
    return rows, one_thread / full[-1]


def step_of(checkpoint: Path, folder: Path, sessions: int, rows: int, threads: int = 0) -> Callable[[], object]:
    """One decoding step of so many full windows."""
    geometry = Geometry(SINKS, rows - SINKS, 1, sessions)
    out, weight_format = folder / f"{sessions}-{rows}", WeightFormat(Precision.INT8)
    engine, _ = exported_engine(checkpoint, geometry, weight_format, out, threads)
    position = SINKS + 2 * geometry.ring
    assert linear_run(geometry, SINKS, position) >= 1
    window = SessionWindow(SINKS, geometry.window)
    feeds = tuple(Feed(slot, position, window, (1,)) for slot in range(sessions))
    return partial(engine.step, feeds)


def by_turns(*groups: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Median milliseconds of each, all by turns."""
    times: list[list[list[float]]] = [[[] for _ in group] for group in groups]
    for number in range(rounds + 2):
        for group, kept in zip(groups, times, strict=True):
            for act, its in zip(group, kept, strict=True):
                start = time.perf_counter()
                act()
                if number > 1:  # the first two warm up
                    its.append(1e3 * (time.perf_counter() - start))
    return [[median(its) for its in kept] for kept in times]


if __name__ == "__main__":
    main()
