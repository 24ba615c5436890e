"""docs/measured/evaluation.md says what the measurements beside it say, and they are what is promised.

Run this file to write the page's tables anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "measured" / "evaluation.md"
GENERATED = re.compile(r"(<!-- (?P<name>[\w-]+): made from [^>]*-->\n).*?<!-- end -->", re.DOTALL)


def place(name: str) -> str:
    """Where the files of a measurement are, seen from the page, without their endings; a real model has its folder."""
    if name.startswith("recall"):
        return f"recall/{'smol' if name.endswith('-smol') else name}"
    return f"smol/{name.removesuffix('-smol')}" if name.endswith("-smol") else f"evaluation/{name}"


def measured(name: str) -> Any:
    return json.loads((PAGE.parent / f"{place(name)}.json").read_text())


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def ppl(name: str = "ppl") -> str:
    found = measured(name)
    heads = [f"{start} to {end - 1}" for start, end in found["ranges"]]
    rows = [
        [row["mode"], *map(figure, [*row["by_range"], row["past_cache"]]), f"{row['to_recomputation']:.4f}"]
        for row in found["rows"]
    ]
    return table(["perplexity at", *heads, "past the cache", "to recomputation"], rows)


def dense() -> str:
    found = measured("dense-smol")
    heads = [f"{start} to {end - 1}" for start, end in found["ranges"]]
    rows = [[row["mode"], *map(figure, row["by_range"])] for row in found["rows"]]
    return table(["perplexity at", *heads], rows)


def streameval(name: str = "streameval") -> str:
    found = measured(name)
    columns = found["columns"]
    rows = [
        [str(lines), str(tokens), str(columns[0]["by_distance"][index]["asked"])]
        + [f"{column['by_distance'][index]['share']:.0%}" for column in columns]
        for index, (lines, tokens) in enumerate(zip(found["distances"], found["distance_tokens"], strict=True))
    ]
    for view in ("inside", "beyond"):
        parts = [column[view] for column in columns]
        rows.append([f"**{view}**", "", "", *map(counted, parts)])
    return table(["lines back", "tokens back", "asked", *(column["name"] for column in columns)], rows)


def recall(name: str = "recall") -> str:
    found = measured(name)
    rows = [*found["distances"], found["inside"], found["beyond"], *found["kinds"], *found["conversations"]]
    heads = ["said windows ago", "turn found", "right with recall", "right where found", "right without"]
    return table(heads, [recalled(row) for row in rows])


def recalled(row: dict[str, Any]) -> list[str]:
    hit, plain = row["with_recall"], row["without"]
    pairs = (("found", "asked"), ("right", "asked"), ("right_of_found", "found"))
    parts = [(hit[hits], hit[asked]) for hits, asked in pairs] + [(plain["right"], plain["asked"])]
    return [row["name"], *(f"{hits / asked:.0%} of {asked}" if asked else "none" for hits, asked in parts)]


def counted(part: dict[str, Any]) -> str:
    return f"**{part['share']:.0%}** of {part['asked']}" if part["asked"] else "none asked"


def speed(name: str = "speed") -> str:
    rows = [
        [str(row["cache_tokens"]), f"{row['sinks_ms']:.2f}", f"{row['recompute_ms']:.0f}", f"{row['ratio']:.0f}"]
        for row in measured(name)["rows"]
    ]
    return table(["cache", "sinks, ms", "recomputation, ms", "times as long"], rows)


def figured(found: dict[str, float], form: str) -> str:
    """A mean and its standard error."""
    sign, digits, times = {"loss": ("+", 2, 100), "share": ("", 2, 100), "nats": ("", 4, 1)}[form]
    unit = "%" if times == 100 else ""
    return f"{times * found['mean']:{sign}.{digits}f}{unit} ± {times * found['error']:.{digits}f}"


def quality() -> str:
    found = measured("quality-smol")
    rows = [["fp32", f"{found['fp32']:.3f}", "", ""]]
    for row in found["rows"]:
        cost = f"{row['perplexity']:.3f}, {figured(row['loss'], 'loss')}"
        rows.append([row["name"], cost, figured(row["divergence"], "nats"), figured(row["same_best"], "share")])
    return table(["", "perplexity", "divergence", "same best token"], rows)


def conversations() -> str:
    rows = [
        [f"{row['first']} to {row['last']}", f"{row['time_to_first_token_ms']:.0f}", f"{row['tokens_per_second']:.0f}"]
        + [f"{row[share]:.0%}" for share in ("ended", "repeated", "distinct")]
        for row in measured("conversations-smol")["rounds"]
    ]
    heads = ["round", "to first token, ms", "tokens a second", "ended", "repeated", "distinct"]
    return table(heads, rows)


PARTS: dict[str, Callable[[], str]] = {
    "ppl": ppl,
    "streameval": streameval,
    "recall": recall,
    "speed": speed,
    "speed-135m": partial(speed, "speed-135m"),
    "ppl-smol": partial(ppl, "ppl-smol"),
    "ppl-int4-smol": partial(ppl, "ppl-int4-smol"),
    "streameval-smol": partial(streameval, "streameval-smol"),
    "recall-smol": partial(recall, "recall-smol"),
}
UNDRAWN: dict[str, Callable[[], str]] = {
    "dense-smol": dense,
    "quality-smol": quality,
    "conversations-smol": conversations,
}
"""Tables without a plot."""


def page() -> str:
    return GENERATED.sub(
        lambda found: f"{found[1]}\n{(PARTS | UNDRAWN)[found['name']]()}\n\n<!-- end -->", PAGE.read_text()
    )


def test_the_page_is_what_was_measured() -> None:
    assert PAGE.read_text() == page(), f"write it anew: python {Path(__file__).name}"


@pytest.mark.parametrize("name", PARTS)
def test_every_plot_is_there(name: str) -> None:
    for kind in ("png", "svg"):
        assert (PAGE.parent / f"{place(name)}.{kind}").stat().st_size > 1000
    assert f"({place(name)}.svg)" in PAGE.read_text()


def test_perplexity_with_four_sinks_is_recomputations_and_the_others_collapse() -> None:
    rows = {row["mode"]: row["to_recomputation"] for row in measured("ppl")["rows"]}
    assert rows["sinks 4+252"] == pytest.approx(1.0, abs=0.01)
    assert rows["dense"] > 100
    assert rows["window 0+256"] > 5


def test_a_real_model_past_its_window_is_as_good_as_recomputed_with_sinks_alone() -> None:
    rows = {row["mode"]: row["to_recomputation"] for row in measured("ppl-smol")["rows"]}
    assert measured("ppl-smol")["compared"] >= 100
    assert rows["sinks 4+252"] == pytest.approx(1.0, abs=0.03)
    assert rows["window 0+256"] > 1.5


def test_kept_blocks_are_as_near_to_llama_cpp_as_it_is_to_itself() -> None:
    near = measured("quality-smol")["near"]
    assert max(near["largest"], near["root_mean_square"]) < 0.08
    assert near["divergence"] < 1.5e-2


def test_what_is_in_the_window_is_known_and_nothing_beyond() -> None:
    for column in measured("streameval")["columns"]:
        assert column["beyond"]["right"] == column["beyond"]["value_right"] == 0 < column["beyond"]["asked"]
        assert column["inside"]["share"] >= 0.9 if column["sinks"] else column["inside"]["right"] == 0


def test_beyond_the_window_recall_keeps_most_of_the_accuracy_inside_it_at_any_distance() -> None:
    found = measured("recall")
    inside = found["inside"]["without"]["accuracy"]
    far = {row["windows"]: row["with_recall"]["accuracy"] for row in found["distances"] if row["windows"] >= 2}
    assert found["recall_tokens"] == found["window_tokens"] // 8
    assert found["beyond"]["with_recall"]["accuracy"] >= 0.8 * inside
    assert found["inside"]["with_recall"]["accuracy"] >= 0.95 * inside
    assert min(far[500.0], far[1000.0]) >= 0.8 * inside


if __name__ == "__main__":
    PAGE.write_text(page())
