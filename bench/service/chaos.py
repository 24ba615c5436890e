"""Replicas that are killed, paused and drained at random, a database and a store that fail, and people who talk on.

    python bench/service/chaos.py [--minutes 10] [--conversations 200] [--replicas 3] [--balancer envoy] [--keep FOLDER]

Needs an installed PostgreSQL (`initdb`), which is started here, as an S3 API is, so that both can fail. The balancer
has its file of `deploy/`. What does not hold ends the run with an AssertionError; what happened and what was found is
printed. `tests/service/replicas/chaos.py` says what has to hold; the default suite does it in small.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.servers.balancers import Envoy, Nginx
from tests.servers.own_postgres import find_tools
from tests.service.replicas.chaos import Chaos, Plan, Report
from tests.service.replicas.outages import database_of, store_of

BALANCERS: Mapping[str, type[Envoy | Nginx]] = {"envoy": Envoy, "nginx": Nginx}


def main() -> None:
    arguments = _arguments()
    if find_tools() is None:
        raise SystemExit("bench/service/chaos.py needs PostgreSQL: install it, so that initdb is on the path")
    with tempfile.TemporaryDirectory(prefix="sinkserve-chaos-") as scratch, pytest.MonkeyPatch.context() as patch:
        folder = arguments.keep or Path(scratch)
        with database_of(folder) as (database_url, database_outages), store_of(patch) as (store_url, store_outages):
            balancer = BALANCERS[arguments.balancer](folder)
            plan = Plan(
                folder=folder,
                database_url=database_url,
                store_url=store_url,
                outages=(*database_outages, *store_outages),
                balancer=balancer,
                seconds=60 * arguments.minutes,
                conversations=arguments.conversations,
                replicas=arguments.replicas,
                lease_s=arguments.lease,
                patience_s=6 * arguments.lease,
                think_s=arguments.think,
                quiet_s=arguments.quiet,
                max_sessions=arguments.max_sessions,
                seed=arguments.seed,
            )
            chaos = Chaos(plan)
            try:
                asyncio.run(chaos.run())
            finally:
                balancer.stop()
                show(chaos.report)


def show(report: Report) -> None:
    """What happened, and what was found."""
    found = report.findings
    console = Console()
    console.print(f"{report.seconds / 60:.1f} minutes")
    _table(console, "blows", report.blows)
    _table(console, "troubles that clients met", report.troubles)
    _table(console, "exit statuses of replicas", report.exits)
    _table(console, "turns by how they ended", found.reasons)
    _table(console, "turns by attempts", found.attempts)
    _table(console, "turns that ended in ERROR, by what was said", found.errors)
    console.print(
        f"{report.behind:,} turns refused behind others that were sent with them; {found.epochs:,} claims of sessions; "
        f"{report.fenced:,} writes of an epoch that was over refused, none took effect"
    )
    console.print(
        f"{found.tokens:,} tokens in all histories, {found.judged:,} greedy ones judged by a replay: "
        f"{found.not_best:,} not the replay's best, the worst {found.worst.gap:.2e} below it at position "
        f"{found.worst.position} (tolerance {found.tolerance:g})"
    )


def _table(console: Console, title: str, counts: Mapping[str, int] | Mapping[int, int]) -> None:
    table = Table("", "", title=title, show_header=False)
    for name, count in Counter[object](counts).most_common():
        table.add_row(str(name), f"{count:,}")
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--balancer", choices=BALANCERS, default="envoy")
    parser.add_argument("--lease", type=float, default=5.0, help="seconds")
    parser.add_argument("--think", type=float, default=4.0, help="seconds between a person's turns, on average")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds between blows to one replica, on average")
    parser.add_argument("--max-sessions", type=int, default=130, help="sessions in memory of one replica")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="an empty folder for logs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
