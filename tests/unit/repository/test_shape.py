"""The house stays as it is: files and functions that are read in one go, folders whose names are seen at once."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from tests.environment import users_environment

ROOT = Path(__file__).resolve().parents[3]
MOST_LINES, MOST_FUNCTION_LINES, MOST_FILES = 300, 40, 15


@cache
def tracked() -> tuple[PurePosixPath, ...]:
    """Files of the repository, and those that would be."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    ran = subprocess.run(command, cwd=ROOT, env=users_environment(), capture_output=True, text=True, check=True)
    return tuple(PurePosixPath(name) for name in ran.stdout.splitlines() if (ROOT / name).is_file())


def sources() -> Iterator[PurePosixPath]:
    return (path for path in tracked() if path.suffix == ".py")


def long_files() -> set[str]:
    return {str(path) for path in sources() if (ROOT / path).read_bytes().count(b"\n") > MOST_LINES}


def long_functions() -> set[str]:
    """As FILE:FUNCTION. Migrations are lists of statements, and are never changed again."""
    paths = (path for path in sources() if not path.is_relative_to("common/db/migrations/versions"))
    return {f"{path}:{name}" for path in paths for name in _long_functions((ROOT / path).read_bytes())}


def _long_functions(text: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= MOST_FUNCTION_LINES:
                yield node.name


def full_folders() -> set[str]:
    """Decisions are numbered, never removed, and listed by what they are about."""
    counts = Counter(path.parent for path in tracked() if not path.is_relative_to("docs/decisions"))
    return {str(folder) for folder, count in counts.items() if count > MOST_FILES}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(long_files, id=f"no file above {MOST_LINES} lines"),
        pytest.param(long_functions, id=f"no function above {MOST_FUNCTION_LINES} lines"),
        pytest.param(full_folders, id=f"no folder above {MOST_FILES} files"),
    ],
)
def test_nothing_is_too_large(found: Callable[[], set[str]]) -> None:
    assert found() == set(), "too large: split it by noun"


def test_a_function_that_is_too_long_is_seen() -> None:
    body = "\n    pass" * MOST_FUNCTION_LINES
    assert list(_long_functions(f"def short():{body[:-9]}\nclass A:\n  async def long():{body}".encode())) == ["long"]
