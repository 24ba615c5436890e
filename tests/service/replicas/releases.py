"""Trees of other releases: of the last one, from history; of the next, made up, with one more step of the schema."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from common.db.schema import needed_version

ROOT = Path(__file__).resolve().parents[3]
NEXT = f"{int(needed_version()) + 1:04}"
EXPANDS = f'compatible_from = "{needed_version()}"\n'
"""What its step says if it only adds."""
_STEP = '''"""Made up: a column in every table that this release writes to, with a default."""

import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{this}"
{says}

def upgrade():
    for table in ("engine_names", "engines", "sessions", "turns", "usage", "builds", "replicas"):
        op.add_column(table, sa.Column("next_release", sa.String(9), nullable=False, server_default="yes"))
'''


def upgrade_to_next(url: str, folder: Path, says: str = EXPANDS) -> None:
    """Upgrade the database at `url` as the next release does, whose tree is made in `folder`."""
    tree = folder / "next"
    shutil.copytree(ROOT / "common", tree / "common")
    step = _STEP.format(next=NEXT, this=needed_version(), says=says)
    (tree / "common/db/migrations/versions" / f"v{NEXT}_next.py").write_text(step)
    program = f"from common.db import database, schema; schema.upgrade(database.connect({url!r}))"
    run_in(tree, "-c", program)


def unpack_last(folder: Path) -> Path:
    """The tree of the last commit with the schema before this one's, and its stubs; skips where history is missing."""
    steps = "common/db/migrations/versions"
    newest = next((ROOT / steps).glob(f"v{needed_version()}_*.py")).name
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", f"{steps}/{newest}").decode().strip()
    archive = _git("archive", f"{added}^") if added else b""
    if not archive:
        pytest.skip(f"no history in which {newest} was added")
    tree = folder / "last"
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        members.extractall(tree, filter="data")
    run_in(tree, "protos/generate.py")
    return tree


def run_in(tree: Path, *arguments: str) -> None:
    """Run Python in the tree of a release, with its own packages."""
    subprocess.run((sys.executable, *arguments), cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True)


def _git(*arguments: str) -> bytes:
    """What git prints; nothing where there is no git, or not so much history."""
    try:
        return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""
