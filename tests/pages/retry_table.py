"""The retry table of docs/use/clients.md, and which reasons the services raise with which codes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import errors
from common.errors import RETRY, Reason, Retry, SinkServeError
from common.rpc.grpc_status import CODES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "use" / "clients.md"
NONE = "none"
CLASSES: Mapping[str, type[SinkServeError]] = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind in CODES
}
_ROW = re.compile(r"^\| (?P<reason>none|`[A-Z_]+`) \| (?P<codes>[^|]+) \| `(?P<retry>\w+)` \| [^|]+ \|$", re.MULTILINE)
_HEAD = "| reason | code | retry | what a client does |\n| --- | --- | --- | --- |\n"


@dataclass(frozen=True)
class Row:
    """What to do about a reason that comes with one of some codes."""

    reason: str
    codes: tuple[str, ...]
    retry: Retry

    def __str__(self) -> str:
        return f"{self.reason} {'/'.join(self.codes)}"


def rows() -> list[Row]:
    """Every row; raises ValueError for a line that is not one."""
    _, head, rest = PAGE.read_text().partition(_HEAD)
    lines = rest.partition("\n\n")[0].splitlines() if head else []
    return [_row(line) for line in lines]


def _row(line: str) -> Row:
    found = _ROW.match(line)
    if found is None:
        raise ValueError(f"not a row of the table: {line}")
    return Row(found["reason"].strip("`"), tuple(re.findall(r"`([A-Z_]+)`", found["codes"])), Retry(found["retry"]))


def said(reason: str, code: str) -> Retry:
    """What an error of the services says that a client does about it by itself."""
    kind = next(kind for kind in CLASSES.values() if CODES[kind].name == code)
    return RETRY.get((kind, Reason(reason)), Retry.NEVER)


def raised() -> dict[str, set[str]]:
    """Codes that each reason is raised with, as the source says."""
    codes: dict[str, set[str]] = {reason.value: set() for reason in Reason}
    for folder in ("common", "builder_service", "runtime_service"):
        for path in (ROOT / folder).rglob("*.py"):
            for name, reason in _raised_in(ast.parse(path.read_text())):
                codes[reason].add(CODES[CLASSES[name]].name)
    return codes


def _raised_in(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Class and reason of every error that is made."""
    constants = {
        target.id: _reasons(node.value, {})
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in CLASSES:
                yield from ((name, reason) for reason in _reasons(node.args[0], constants))


def _reasons(value: ast.expr, constants: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(value):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason":
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found |= constants.get(node.id, set())
    return found
