"""The part of a stub that is reached from a set of names: classes by name or by annotation, members by name."""

from __future__ import annotations

import ast
import builtins
import copy

# Python and mypy reach these without naming them.
PROTOCOLS = {"__bool__", "__buffer__", "__getitem__", "__index__", "__init__", "__int__", "__iter__", "__len__"}


def prune(module: ast.Module, used: frozenset[str]) -> list[ast.stmt]:
    """Keep the definitions of ``module`` that ``used`` reaches, in the order of the file."""
    trimmed = {name: [_trim(item, used) for item in items] for name, items in definitions(module).items()}
    reached: set[str] = set()
    found: set[str] = {*used} & trimmed.keys()
    while found := {name for name in found - reached if not hasattr(builtins, name)}:  # trt.bool would hide bool
        reached |= found
        found = {name for parent in found for item in trimmed[parent] for name in _mentioned(item)}
        found &= trimmed.keys()
    return [item for name, items in trimmed.items() if name in reached for item in items]


def definitions(module: ast.Module) -> dict[str, list[ast.stmt]]:
    """Definitions by name; overloads of a function share theirs."""
    found: dict[str, list[ast.stmt]] = {}
    for item in module.body:
        if name := defined_name(item):
            found.setdefault(name, []).append(item)
    return found


def defined_name(item: ast.stmt) -> str | None:
    """The name that a statement of a stub defines, or None."""
    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
        return item.target.id
    return item.name if isinstance(item, ast.ClassDef | ast.FunctionDef) else None


def _trim(item: ast.stmt, used: frozenset[str]) -> ast.stmt:
    if not isinstance(item, ast.ClassDef):
        return item
    trimmed = copy.copy(item)
    trimmed.body = [_trim(member, used) for member in item.body if _kept(member, used)] or [ast.Expr(ast.Constant(...))]
    return trimmed


def _kept(member: ast.stmt, used: frozenset[str]) -> bool:
    name = defined_name(member)
    return isinstance(member, ast.ClassDef) or (name is not None and (name in used or name in PROTOCOLS))


def _mentioned(item: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(item) if isinstance(node, ast.Name)}
