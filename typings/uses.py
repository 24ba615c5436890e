"""What our sources use of a package: the names in the files that import it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("bench", "builder_service", "common", "runtime_service", "tests")


def names_used(root: Path, package: str) -> frozenset[str]:
    """Every name that a file which imports ``package`` could mean by it: attributes, imports, its classes' methods."""
    return frozenset(name for path in files_using(root, package) for name in names_in(path, package))


def names_in(path: Path, package: str) -> frozenset[str]:
    """The same of one file."""
    return frozenset(_names(_parse(path), package))


def files_using(root: Path, package: str, folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """The files below ``folders`` that import ``package``, anywhere in them."""
    paths = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    likely = (path for path in paths if package in path.read_text(encoding="utf-8"))  # parsing them all takes seconds
    return [path for path in likely if any(_imports(node, package) for node in ast.walk(_parse(path)))]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(node: ast.AST, package: str) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == package for alias in node.names)
    return isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == package


def _names(module: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and _imports(node, package):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef):  # methods that override one of the package's
            yield from (item.name for item in node.body if isinstance(item, ast.FunctionDef))
