"""Panels of what the database knows of each principal, which no metric has: a label for each would have no bound.

In PostgreSQL's SQL, with Grafana's own data source for it, by a role that can read no more: `reader.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATABASE = {"type": "grafana-postgresql-datasource", "uid": "${database}"}
MOST = 20
"""Principals that one panel shows: those with the most."""
_USAGE = "FROM usage WHERE day BETWEEN '${__from:date:YYYY-MM-DD}' AND '${__to:date:YYYY-MM-DD}'"


@dataclass(frozen=True)
class SqlPanel:
    """One query, of `time`, `metric` and `value` where it is `over_time`, else a table. `unit` is one of Grafana's."""

    title: str
    what: str
    sql: str
    unit: str = "short"
    over_time: bool = False
    width: int = 12

    def drawn(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel as Grafana reads it, at a place of the grid."""
        return {
            "id": number,
            "type": "timeseries" if self.over_time else "table",
            "title": self.title,
            "description": self.what,
            "datasource": DATABASE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": 8},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0, "custom": self._custom}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if self.over_time else {},
            "targets": [
                {
                    "refId": "A",
                    "rawQuery": True,
                    "editorMode": "code",
                    "format": "time_series" if self.over_time else "table",
                    "rawSql": self.sql,
                    "datasource": DATABASE,
                }
            ],
        }

    @property
    def _custom(self) -> dict[str, Any]:
        return {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal"}} if self.over_time else {}


def by_day(title: str, what: str, column: str) -> SqlPanel:
    """A column of what was used, for each day."""
    most = f"(SELECT principal {_USAGE} GROUP BY principal ORDER BY SUM({column}) DESC LIMIT {MOST})"
    sums = f"SELECT day::timestamp AS time, principal AS metric, SUM({column}) AS value {_USAGE}"
    sql = f"{sums} AND principal IN {most} GROUP BY day, principal ORDER BY day, principal"
    return SqlPanel(title, what, sql, over_time=True)


def by_engine(title: str, what: str, *columns: str) -> SqlPanel:
    """What was used of each engine, the most of the last column first."""
    sums = ", ".join(f"SUM({column}) AS {column}" for column in columns)
    order = f"ORDER BY {columns[-1]} DESC, principal, engine LIMIT {MOST}"
    return SqlPanel(title, what, f"SELECT principal, engine, {sums} {_USAGE} GROUP BY principal, engine {order}")


def most_of(title: str, what: str, selected: str, unit: str = "short") -> SqlPanel:
    """Principals that have most of something now, by the column after `principal`."""
    return SqlPanel(title, what, f"{selected} ORDER BY 2 DESC, 1 LIMIT {MOST}", unit)
