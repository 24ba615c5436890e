"""The dashboards: which panels stand on which, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.grafana.panels import DATASOURCE, Panel, of, ratio
from deploy.grafana.tables import SqlPanel, by_day, by_engine, most_of

_WIDTH = 24
_DATASOURCE = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
_ENGINE = {
    "name": "engine",
    "type": "query",
    "label": "Engine",
    "datasource": DATASOURCE,
    "query": "label_values(sinkserve_runtime_slots, engine)",
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
}
_DATABASE = {
    "name": "database",
    "type": "datasource",
    "query": "grafana-postgresql-datasource",
    "label": "PostgreSQL",
}


@dataclass(frozen=True)
class Board:
    """A dashboard, `name` in its file and its address."""

    name: str
    title: str
    panels: Sequence[Panel | SqlPanel]
    variables: tuple[dict[str, Any], ...] = (_DATASOURCE, _ENGINE)
    since: str = "now-3h"
    refresh: str = "30s"

    def drawn(self) -> dict[str, Any]:
        """The dashboard as Grafana imports it."""
        return {
            "uid": f"sinkserve-{self.name}",
            "title": self.title,
            "tags": ["sinkserve"],
            "schemaVersion": 39,
            "editable": True,
            "refresh": self.refresh,
            "time": {"from": self.since, "to": "now"},
            "templating": {"list": list(self.variables)},
            "links": [{"type": "dashboards", "tags": ["sinkserve"], "title": "SinkServe", "asDropdown": True}],
            "panels": _placed(self.panels),
        }


def _placed(panels: Sequence[Panel | SqlPanel]) -> list[dict[str, Any]]:
    """From left to right, a new line where the next one does not fit."""
    drawn, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + 8
        drawn.append(panel.drawn(number, x, y))
        x += panel.width
    return drawn


_TURNS = "sinkserve_runtime_turns_total"
_LOAD = ratio(
    "Load",
    "Share of the slots that compute. Above it, turns wait.",
    "sinkserve_runtime_running_turns",
    "sinkserve_runtime_slots",
    "engine",
)

OVERVIEW = Board(
    "overview",
    "SinkServe: overview",
    (
        _LOAD,
        of("sinkserve_runtime_waiting_turns", "Turns that wait", "engine"),
        of("sinkserve_runtime_time_to_first_token_seconds", "Time to first token", unit="s"),
        of("sinkserve_runtime_time_per_output_token_seconds", "Time per output token", unit="s"),
        of("sinkserve_runtime_generated_tokens_total", "Tokens generated a second", "engine"),
        of(_TURNS, "Turns that ended, a second", "finish_reason"),
        of("sinkserve_runtime_turn_errors_total", "Turns that failed, a second", "reason"),
        of("sinkserve_runtime_calls_total", "Calls at runtimes that ended, a second", "method", "code"),
        of("sinkserve_runtime_call_seconds", "Calls of one answer at runtimes", "method", unit="s"),
        of("sinkserve_runtime_quota_refusals_total", "Refused by quotas at runtimes, a second", "quota"),
        of("sinkserve_runtime_streams", "Open streams"),
        of("sinkserve_builder_builds", "Builds", "state"),
        of("sinkserve_web_requests_total", "Requests over HTTP that ended, a second", "route", "status"),
        of("sinkserve_web_request_seconds", "Requests over HTTP, to the end of their answers", "route", unit="s"),
    ),
)
ENGINES = Board(
    "engines",
    "SinkServe: engines",
    (
        of("sinkserve_runtime_slots", "Slots", "engine"),
        of("sinkserve_runtime_slots_in_use", "Slots that hold a cache", "engine"),
        of("sinkserve_runtime_running_turns", "Turns that run", "engine"),
        of("sinkserve_runtime_queue_seconds", "Time until a turn has a slot", "engine", unit="s"),
        of("sinkserve_runtime_prefill_seconds", "Prefill", "engine", unit="s"),
        of("sinkserve_runtime_prompt_tokens_total", "Tokens of input a second", "engine"),
        ratio(
            "Guesses that were right",
            "Drafted tokens that were accepted; where nothing is drafted, nothing is shown.",
            "sinkserve_runtime_accepted_tokens_total",
            "sinkserve_runtime_drafted_tokens_total",
            "engine",
        ),
        of("sinkserve_runtime_drafted_tokens_total", "Tokens drafted a second", "engine"),
        of("sinkserve_runtime_form_turns_total", "Turns with a form a second", "form", "matched"),
        of("sinkserve_runtime_mask_seconds_total", "Time to find what fits forms, a second", "when", unit="s"),
        of("sinkserve_runtime_mask_steps_total", "Steps with forms a second", "engine"),
        of("sinkserve_runtime_late_masks_total", "Masks that were late, a second", "engine"),
        of("sinkserve_runtime_golden_margin", "Least margin of golden streams", "engine", how="min"),
        of("sinkserve_runtime_engines_refused", "Engines that could not be loaded"),
    ),
)
SESSIONS = Board(
    "sessions",
    "SinkServe: sessions and where their caches are",
    (
        of("sinkserve_runtime_sessions", "Sessions in memory", "tier").wide,
        of("sinkserve_runtime_parked_bytes", "Host memory of parked caches", "engine", unit="bytes"),
        of("sinkserve_runtime_parked_file_bytes", "Local disk of parked caches", unit="bytes"),
        of("sinkserve_runtime_evictions_total", "Caches that made room, a second", "to"),
        of("sinkserve_runtime_restores_total", "Caches that came back, a second", "way"),
        ratio(
            "Input that is fed again",
            "Tokens that restore caches, by tokens of new input. Much of it: too few slots, or too little host memory.",
            "sinkserve_runtime_replayed_tokens_total",
            "sinkserve_runtime_prompt_tokens_total",
            "engine",
        ),
        of("sinkserve_runtime_evicted_tokens_total", "Tokens that left their window, a second", "engine"),
        of("sinkserve_runtime_recalled_tokens_total", "Tokens of old turns that are fed again, a second", "engine"),
    ),
)
BUILDS = Board(
    "builds",
    "SinkServe: builds",
    (
        of("sinkserve_builder_builds", "Builds", "state"),
        of("sinkserve_builder_oldest_queued_seconds", "The oldest build that waits", unit="s"),
        of("sinkserve_builder_builders", "Builders that are alive"),
        of("sinkserve_builder_builds_ended_total", "Builds that ended, a second", "state", "reason"),
        of("sinkserve_builder_build_seconds", "Time of a build", "state", unit="s"),
        of("sinkserve_builder_builds_deleted_total", "Builds that were deleted, a second"),
        of("sinkserve_builder_quota_refusals_total", "Refused by quotas at builders, a second", "quota"),
        of("sinkserve_builder_calls_total", "Calls at builders that ended, a second", "method", "code"),
        of("sinkserve_builder_call_seconds", "Calls of one answer at builders", "method", unit="s"),
    ),
)
TENANTS = Board(
    "tenants",
    "SinkServe: tenants",
    (
        by_day("Tokens generated a day", "Of replies, by principal, as billed. Days are of UTC.", "generated_tokens"),
        by_day("Tokens of input a day", "By principal, as billed. Days are of UTC.", "prompt_tokens"),
        by_day("Turns a day", "That ended, by principal. Days are of UTC.", "turns"),
        by_engine(
            "Usage by principal and engine",
            "Of the days that are shown, as `sinkserve usage` lists it.",
            "turns",
            "prompt_tokens",
            "generated_tokens",
        ),
        most_of(
            "Sessions",
            "That there are, in memory or not. Quota: sessions.",
            "SELECT principal, COUNT(*) AS sessions FROM sessions GROUP BY principal",
        ),
        most_of(
            "Bytes of snapshots",
            "In the store. Quota: snapshot_bytes.",
            "SELECT principal, SUM(size_bytes) AS bytes FROM snapshots"
            " JOIN sessions ON sessions.key = snapshots.session_key GROUP BY principal",
            "bytes",
        ),
        most_of(
            "Bytes of engines",
            "Of those that one owns, each file once. Quota: engine_bytes.",
            "SELECT owner AS principal, SUM(size_bytes) AS bytes FROM (SELECT DISTINCT owner, digest, size_bytes"
            " FROM engine_files JOIN engine_names USING (name)) AS owned GROUP BY owner",
            "bytes",
        ),
        most_of(
            "Builds that wait or run",
            "Quotas: queued_builds, running_builds.",
            "SELECT principal, COUNT(*) FILTER (WHERE state = 'RUNNING') AS running,"
            " COUNT(*) FILTER (WHERE state = 'QUEUED') AS queued"
            " FROM builds WHERE state IN ('QUEUED', 'RUNNING') GROUP BY principal",
        ),
    ),
    variables=(_DATABASE,),
    since="now-30d",
    refresh="5m",
)
BOARDS = (OVERVIEW, ENGINES, SESSIONS, BUILDS, TENANTS)
