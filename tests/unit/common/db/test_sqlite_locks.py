"""SQLite's locks are the process's: closing the database's file by any other way loses them, and then the database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from common.db.engine import make_engine

VISIT = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM kept').fetchall()"


def test_a_second_engine_in_a_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/db", tmp_path / "db-wal"
    first = make_engine(url, 1.0)
    with first.begin() as connection:
        connection.execute(text("CREATE TABLE kept (id INTEGER)"))
    make_engine(url, 1.0).dispose()
    before = log.stat().st_ino
    subprocess.run((sys.executable, "-S", "-c", VISIT, tmp_path / "db"), check=True)
    assert log.exists(), "who came and left took itself for the last one"
    assert log.stat().st_ino == before
    first.dispose()
