"""Panels of Grafana, written from the definitions of metrics: what a metric means, and how it is asked for.

The forms are those of Grafana's dashboard model, schema version 39 (Grafana 10 and newer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.grafana.definitions import Definition, all_definitions

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUANTILES = (0.5, 0.95, 0.99)
_OF_ENGINE = '{engine=~"$engine"}'
_DEFINED = all_definitions()


@dataclass(frozen=True)
class Panel:
    """A graph of one or more queries, each with what its lines are called. `unit` is one of Grafana's."""

    title: str
    what: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    width: int = 12

    @property
    def wide(self) -> Panel:
        """The same, over the whole width."""
        return replace(self, width=24)

    def drawn(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel as Grafana reads it, at a place of the grid."""
        targets = [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": name, "datasource": DATASOURCE}
            for index, (query, name) in enumerate(self.queries)
        ]
        return {
            "id": number,
            "type": "timeseries",
            "title": self.title,
            "description": self.what,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": 8},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
            "targets": targets,
        }


def of(name: str, title: str, *by: str, unit: str = "short", how: str = "") -> Panel:
    """What one metric says: the rate of a counter, quantiles of a histogram, a gauge.

    Summed but for the labels `by`, or put together as `how` says.
    """
    found = _DEFINED[name]
    wrong = set(by) - set(found.labels)
    assert not wrong, f"{name} has no label {wrong}"
    return Panel(title, found.what, unit, tuple(_queries(found, by, how)))


def ratio(title: str, what: str, above: str, below: str, *by: str, unit: str = "percentunit") -> Panel:
    """One metric by another, both summed but for the labels `by`; rates if they are counters."""
    return Panel(title, what, unit, ((f"{_sum(_DEFINED[above], by)} / {_sum(_DEFINED[below], by)}", _legend(by)),))


def _queries(found: Definition, by: Sequence[str], how: str) -> list[tuple[str, str]]:
    if found.kind != "histogram":
        return [(_sum(found, by, how), _legend(by))]
    labels = ", ".join((*by, "le"))
    rates = f"sum by ({labels}) (rate({found.name}_bucket{_chosen(found)}[$__rate_interval]))"
    legend = _legend(by)
    return [(f"histogram_quantile({part}, {rates})", f"{legend} p{part * 100:.0f}".strip()) for part in QUANTILES]


def _sum(found: Definition, by: Sequence[str], how: str = "") -> str:
    series = f"{found.name}{_chosen(found)}"
    if found.kind == "counter":
        series = f"rate({series}[$__rate_interval])"
    # What a builder says of the queue, all builders say.
    how = how or ("max" if found.kind == "gauge" and found.name.startswith("sinkserve_builder_") else "sum")
    return f"{how} by ({', '.join(by)}) ({series})" if by else f"{how}({series})"


def _chosen(found: Definition) -> str:
    return _OF_ENGINE if "engine" in found.labels else ""


def _legend(by: Sequence[str]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by)
