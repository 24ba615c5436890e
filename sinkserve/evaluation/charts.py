"""The plots of measurements, as PNG and SVG. Needs matplotlib, and no display."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sinkserve.evaluation.conversations import Conversations
from sinkserve.evaluation.modes import Kind
from sinkserve.evaluation.perplexity import Perplexity
from sinkserve.evaluation.recall.scores import Recall
from sinkserve.evaluation.speed import Speed
from sinkserve.evaluation.streameval import StreamEval

_COLOURS = {Kind.DENSE: "tab:red", Kind.WINDOW: "tab:orange", Kind.RECOMPUTE: "tab:gray", Kind.SINKS: "tab:blue"}
_STYLES = ("-", "--", ":", "-.")
_SIZE = (8.0, 3.6)  # inches


def draw(
    measured: Conversations | Perplexity | Recall | StreamEval | Speed, folder: Path, name: str
) -> tuple[Path, Path]:
    """Write `folder`/NAME.png and NAME.svg."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    assert isinstance(axes, Axes)
    if isinstance(measured, Perplexity):
        _draw_perplexity(measured, axes)
    elif isinstance(measured, StreamEval):
        _draw_streameval(measured, axes)
    elif isinstance(measured, Conversations):
        _draw_rounds(measured, axes)
    elif isinstance(measured, Recall):
        _draw_recall(measured, axes)
    else:
        _draw_speed(measured, axes)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, folder, name)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with mpl.rc_context({"svg.hashsalt": "sinkserve", "svg.fonttype": "none"}):
        figure.savefig(png, dpi=100)
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def _draw_perplexity(measured: Perplexity, axes: Axes) -> None:
    seen: dict[Kind, int] = {}
    for row in measured.rows:
        style = _STYLES[seen.setdefault(row.kind, 0) % len(_STYLES)]
        seen[row.kind] += 1
        axes.plot(*np.array(row.curve).reshape(-1, 2).T, style, color=_COLOURS[row.kind], label=row.mode, linewidth=1.2)
    axes.axvline(measured.trained_context, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set(title=f"{measured.engine}: perplexity by position", xlabel="position (dotted: trained context)")
    axes.set_ylabel("perplexity a token")


def _draw_streameval(measured: StreamEval, axes: Axes) -> None:
    for column in measured.columns:
        points = [
            (tokens, 100 * accuracy.share)
            for tokens, accuracy in zip(measured.distance_tokens, column.by_distance, strict=True)
            if accuracy.share is not None
        ]
        axes.plot(*np.array(points).reshape(-1, 2).T, "o-", label=f"cache {column.name}", markersize=3, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(title=f"{measured.engine}: StreamEval", xlabel="tokens between fact and reply", ylabel="replies right, %")


def _draw_recall(measured: Recall, axes: Axes) -> None:
    for label, style, points in (
        (
            "right, with recall",
            "o-",
            [(row, row.with_recall.right, row.with_recall.asked) for row in measured.distances],
        ),
        ("turn found", "s:", [(row, row.with_recall.found, row.with_recall.asked) for row in measured.distances]),
        ("right, without", "o--", [(row, row.without.right, row.without.asked) for row in measured.distances]),
    ):
        known = [(row.windows, 100 * hits / asked) for row, hits, asked in points if asked and row.windows]
        axes.plot(*np.array(known).reshape(-1, 2).T, style, label=label, markersize=3, linewidth=1.2)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title=f"{measured.engine}: answers by distance, {measured.recall_tokens} tokens read again")
    axes.set(xlabel="windows since it was said (dotted: the window)", ylabel="%")


def _draw_speed(measured: Speed, axes: Axes) -> None:
    sizes = [row.cache_tokens for row in measured.rows]
    axes.plot(
        sizes, [row.recompute_ms for row in measured.rows], "o-", color=_COLOURS[Kind.RECOMPUTE], label="recomputation"
    )
    axes.plot(
        sizes, [row.sinks_ms for row in measured.rows], "o-", color=_COLOURS[Kind.SINKS], label="sinks and window"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(title=f"{measured.engine}: time per token", xlabel="tokens in the cache", ylabel="ms a token")


def _draw_rounds(measured: Conversations, axes: Axes) -> None:
    numbers = [row.last for row in measured.rounds]
    to_first = [row.time_to_first_token_ms for row in measured.rounds]
    between = [1e3 / row.tokens_per_second for row in measured.rounds]
    axes.plot(numbers, to_first, "o-", color="tab:orange", label="to the first token", markersize=3)
    axes.plot(numbers, between, "o-", color="tab:blue", label="a token from then on", markersize=3)
    axes.set_yscale("log")
    axes.set(title=f"{measured.engine}: conversations by round", xlabel="round", ylabel="ms, median")
