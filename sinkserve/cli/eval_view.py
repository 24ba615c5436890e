"""Measurements as tables, and how far a measurement is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sinkserve.cli.terminal import console
from sinkserve.evaluation.conversations import Conversations, Held, Rounds
from sinkserve.evaluation.perplexity import Perplexity, Row
from sinkserve.evaluation.progress import Advance
from sinkserve.evaluation.quality import Figure, Quality
from sinkserve.evaluation.recall.scores import Recall
from sinkserve.evaluation.recall.scores import Row as RecallRow
from sinkserve.evaluation.speed import Speed
from sinkserve.evaluation.streameval import Accuracy, StreamEval

Measured = Conversations | Perplexity | Quality | Recall | StreamEval | Speed
FEW = 100
"""Fewer tokens than this say little of a ratio."""
_LINE_EVERY_S = 30.0


@contextmanager
def tracked(name: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """A bar at a terminal; anywhere else a line, and another every half minute."""
    if not console.err.is_terminal:
        console.err.print(f"[dim]{escape(name)}[/]")
        yield _lines(name, total, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err) as progress:
        task = progress.add_task(escape(name), total=total)
        yield lambda done: progress.advance(task, done)


def _lines(name: str, total: int, clock: Callable[[], float]) -> Advance:
    reached, last = 0, clock()

    def advance(done: int) -> None:
        nonlocal reached, last
        reached += done
        if (now := clock()) - last >= _LINE_EVERY_S:
            last = now
            console.err.print(f"[dim]{escape(name)}: {reached} of {total}[/]")

    return advance


def print_held(held: Held) -> None:
    """Print what was said in a conversation, and the replies."""
    category = f" · {held.category}" if held.category else ""
    console.out.print(f"[bold]question {escape(f'{held.question_id}{category}')}[/]")
    for exchange in held.exchanges:
        console.out.print(f"[bold cyan]user[/] {escape(exchange.said.strip())}")
        console.out.print(f"[bold]reply[/] {escape(exchange.reply.strip())}\n")


def print_measured(measured: Measured) -> None:
    """Print the table, and below it what could not be measured, and why."""
    if isinstance(measured, Perplexity):
        _print_perplexity(measured)
    elif isinstance(measured, StreamEval):
        _print_streameval(measured)
    elif isinstance(measured, Quality):
        _print_quality(measured)
    elif isinstance(measured, Conversations):
        _print_rounds(measured)
    elif isinstance(measured, Recall):
        _print_recall(measured)
    else:
        _print_speed(measured)
    for name, reason in {} if isinstance(measured, StreamEval | Quality | Recall) else measured.skipped.items():
        console.err.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}")


def _print_recall(measured: Recall) -> None:
    rows = [
        *measured.distances,
        replace(measured.inside, name="inside the window"),
        replace(measured.beyond, name="beyond it"),
        *measured.kinds,
        *measured.conversations,
    ]
    columns = ("said windows ago", "turn found#", "right with recall#", "of found#", "right without#")
    console.print_table(columns, [recall_cells(row) for row in rows], "nothing was asked")
    kept = "" if measured.kept is None else f"; beyond the window {measured.kept:.0%} of the accuracy inside it is kept"
    read = f"{measured.recall_tokens} tokens are read again in a window of {measured.window_tokens}"
    console.err.print(f"[dim]{read}; position {measured.position:,}{kept}[/]")


def recall_cells(row: RecallRow) -> list[str]:
    """A row of the table."""
    hit, plain = row.with_recall, row.without
    pairs = (
        (hit.found, hit.asked),
        (hit.right, hit.asked),
        (hit.right_of_found, hit.found),
        (plain.right, plain.asked),
    )
    return [row.name, *(f"{hits / asked:.0%} of {asked}" if asked else "none" for hits, asked in pairs)]


def _print_perplexity(measured: Perplexity) -> None:
    ranges = [f"{start} to {end - 1}#" for start, end in measured.ranges]
    columns = ["mode", *ranges, "past the cache#", "to recomputation#"]
    console.print_table(columns, [_perplexity_cells(row) for row in measured.rows], "nothing could be measured")
    if measured.compared is None:
        return
    console.err.print(f"[dim]the last two columns are of the same {measured.compared} tokens in every mode[/]")
    if measured.compared < FEW:
        advice = f"{measured.compared} tokens are few to compare by: a smaller --stride or more --tokens"
        console.err.print(f"[yellow]warning[/] {advice} gives {FEW} and more")


def _perplexity_cells(row: Row) -> list[str]:
    ratio = "" if row.to_recomputation is None else f"{row.to_recomputation:.4f}"
    return [row.mode, *(_figure(value) for value in row.by_range), _figure(row.past_cache), ratio]


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _print_quality(measured: Quality) -> None:
    heads = ["engine", "perplexity#", "in fp32#", "loss#", "divergence#", "same best token#", "tokens#"]
    cells = [measured.engine, f"{measured.perplexity:.3f}", f"{measured.fp32_perplexity:.3f}"]
    cells += [_percent(measured.loss, "+"), _plus_minus(measured.divergence), _percent(measured.same_best)]
    console.print_table(heads, [[*cells, str(measured.judged)]], "nothing could be measured")


def _percent(figure: Figure, sign: str = "") -> str:
    return f"{figure.mean:{sign}.2%} ± {100 * figure.error:.2f}"


def _plus_minus(figure: Figure) -> str:
    return f"{figure.mean:.5f} ± {figure.error:.5f}"


def _print_streameval(measured: StreamEval) -> None:
    heads = ["lines back#", "tokens back#", "asked#", *(f"cache {column.name}#" for column in measured.columns)]
    rows = []
    for index, (lines, tokens) in enumerate(zip(measured.distances, measured.distance_tokens, strict=True)):
        cells = [column.by_distance[index] for column in measured.columns]
        rows.append([str(lines), str(tokens), str(cells[0].asked), *(_share(cell) for cell in cells)])
    for name in ("inside", "at the edge", "beyond"):
        parts = [getattr(column, name.replace(" ", "_")) for column in measured.columns]
        rows.append([name, "", "", *(_counted(part) for part in parts)])
    console.print_table(heads, rows, "the engine has no window to ask in")


def _share(accuracy: Accuracy) -> str:
    return "" if accuracy.share is None else f"{accuracy.share:.0%}"


def _counted(accuracy: Accuracy) -> str:
    return f"{_share(accuracy)} of {accuracy.asked}" if accuracy.asked else "none asked"


def _print_speed(measured: Speed) -> None:
    rows = [
        [str(row.cache_tokens), f"{row.sinks_ms:.2f}", f"{row.recompute_ms:.1f}", f"{row.ratio:.1f}"]
        for row in measured.rows
    ]
    console.print_table(
        ["cache#", "sinks, ms#", "recomputation, ms#", "times as long#"], rows, "nothing could be measured"
    )


def _print_rounds(measured: Conversations) -> None:
    heads = ["round#", "to first token, ms#", "tokens a second#", "ended#", "repeated#", "distinct#", "conversations#"]
    console.print_table(heads, [_rounds_cells(row) for row in measured.rounds], "no conversation came to its end")


def _rounds_cells(row: Rounds) -> list[str]:
    times = [_figure(row.time_to_first_token_ms), _figure(row.tokens_per_second)]
    shares = ["" if math.isnan(share) else f"{share:.0%}" for share in (row.ended, row.repeated, row.distinct)]
    rounds = str(row.first) if row.first == row.last else f"{row.first} to {row.last}"
    return [rounds, *times, *shares, str(row.conversations)]
