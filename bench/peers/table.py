"""The page that a run makes, in Markdown: what each peer did, and how many times as good ours was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from bench.peers.members import MEMBERS, REFERENCES
from bench.peers.readings import FIRST, TURN, Reading, compare, figure, find

MOST_ERROR = 160
"""Characters of an error that are shown; the file of results has the rest."""


def page(readings: Sequence[Reading]) -> str:
    """All shapes."""
    shapes = list(dict.fromkeys(reading.shape for reading in readings))
    return "\n\n".join(_shape(shape, [each for each in readings if each.shape == shape]) for shape in shapes)


def _shape(shape: str, readings: list[Reading]) -> str:
    members = [name for name in MEMBERS if any(reading.member == name for reading in readings)]
    measured = list(dict.fromkeys(each.measure for each in readings if each.values))
    speeds = [measure for measure in measured if measure.startswith(("decode", "prefill", "conversation"))]
    parts = [f"### {shape}", "Tokens a second, medians over rounds:", figures(readings, members, speeds)]
    for reference in REFERENCES:
        others = [member for member in members if member not in REFERENCES]
        if reference in members and others:
            parts += [f"{reference} is so many times as fast (median, worst and best round):"]
            parts += [ratios(readings, reference, others, speeds)]
    firsts = [each for each in readings if each.measure == FIRST and each.values]
    if firsts:
        parts += ["Milliseconds to the first token of a turn, and in brackets seconds of the whole turn:"]
        parts += [turns(readings, firsts)]
    parts += ["Memory of the process, MiB:"]
    parts += [figures(readings, members, [measure for measure in measured if measure.startswith("memory")])]
    failed = failures(readings)
    return "\n\n".join([*parts, *(["Not measured:", failed] if failed else [])])


def figures(readings: Sequence[Reading], members: Sequence[str], measures: Sequence[str]) -> str:
    """Medians, a row a member."""
    rows = [[member, *(_median(readings, member, measure) for measure in measures)] for member in members]
    return table(["", *measures], rows)


def ratios(readings: Sequence[Reading], reference: str, members: Sequence[str], measures: Sequence[str]) -> str:
    """How many times as good as each member the reference was."""
    rows = [[member, *(_ratio(readings, reference, member, measure) for measure in measures)] for member in members]
    return table(["", *measures], rows)


def turns(readings: Sequence[Reading], firsts: Sequence[Reading]) -> str:
    """By the number of the turn: the first, and where their number doubles, and the last."""
    count = max(len(reading.values) for reading in firsts)
    shown = sorted({1, 2, 5, 10, 15, count} & set(range(1, count + 1)))
    rows = [[reading.member, *(_turn(readings, reading, number - 1) for number in shown)] for reading in firsts]
    return table(["turn", *map(str, shown)], rows)


def failures(readings: Sequence[Reading]) -> str:
    """Every member with what it could not do, and why; the same reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for reading in readings:
        if reading.error:
            reasons.setdefault((reading.member, reading.error), []).append(reading.measure)
    return "\n".join(
        f"- {member}, {', '.join(dict.fromkeys(measures))}: {' '.join(error.split())[:MOST_ERROR]}"
        for (member, error), measures in reasons.items()
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _median(readings: Sequence[Reading], member: str, measure: str) -> str:
    reading = find(readings, readings[0].shape, member, measure)
    return figure(median(reading.values)) if reading and reading.values else "-"


def _ratio(readings: Sequence[Reading], reference: str, member: str, measure: str) -> str:
    one, other = (find(readings, readings[0].shape, name, measure) for name in (reference, member))
    ratio = compare(one, other) if one and other and one.values and other.values else None
    return str(ratio) if ratio else "-"


def _turn(readings: Sequence[Reading], first: Reading, index: int) -> str:
    if index >= len(first.values):
        return "-"
    whole = find(readings, first.shape, first.member, TURN)
    assert whole is not None, first
    return f"{figure(1000 * first.values[index])} ({figure(whole.values[index])})"
