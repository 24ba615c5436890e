"""Builders that are killed at random while clients want builds of them: whatever dies, what is promised has to hold.

    SINKSERVE_TEST_POSTGRES_URL=postgresql://postgres@127.0.0.1/postgres python bench/builder/crowd.py [--minutes 5]

Round after round, each with a database, a store and builders of its own: clients ask for builds, some of them for the
same, each twice with one request id, and watch them to their ends, at whichever builder answers. What does not hold
ends the run with an AssertionError. Without the variable PostgreSQL is started from an installed `initdb`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.db.database import connect
from common.db.schema import upgrade
from tests.servers.databases import KINDS, new_database_url
from tests.service.replicas.crowd import Crowd

COLUMNS = ("builds", "keys", "builders killed", "lost by 3 kills", "events", "engines verified", "seconds")


async def main() -> None:
    arguments = parse()
    ends = time.monotonic() + 60 * arguments.minutes
    crowds: list[Crowd] = []
    while time.monotonic() < ends:
        crowds.append(await one_round(arguments, len(crowds)))
        print_rows(crowds[-1:], f"round {len(crowds)}")
    print_rows(crowds, "all rounds")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="rounds begin for so long")
    parser.add_argument("--database", choices=KINDS, default="postgresql")
    parser.add_argument("--builders", type=int, default=2)
    parser.add_argument("--builds", type=int, default=20, help="in a round")
    parser.add_argument("--keys", type=int, default=7, help="different engines among them")
    return parser.parse_args()


async def one_round(arguments: argparse.Namespace, seed: int) -> Crowd:
    """Raises AssertionError for what does not hold."""
    with (
        tempfile.TemporaryDirectory(prefix="sinkserve-builders-") as scratch,
        new_database_url(arguments.database, folder := Path(scratch)) as url,
    ):
        database = connect(url)
        upgrade(database)
        database.close()
        crowd = Crowd(folder, url, arguments.builders, arguments.builds, arguments.keys, kills=1_000_000, seed=seed)
        await crowd.run()
    return crowd


def print_rows(crowds: list[Crowd], title: str) -> None:
    table = Table(*COLUMNS, title=title)
    figures = (
        (crowd.builds, crowd.keys, crowd.killed, crowd.lost, crowd.events, crowd.engines_seen, round(crowd.seconds))
        for crowd in crowds
    )
    table.add_row(*(f"{sum(column):,}" for column in zip(*figures, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
