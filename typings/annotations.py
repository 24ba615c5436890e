"""The annotations of stubgen's text, mended: what pybind11 cannot say, and what mypy's strict mode asks for."""

from __future__ import annotations

import ast
import builtins
import re

from typings.pruning import definitions

# TensorRT's C++ throws nothing: what it cannot make is null, and pybind11 turns null into None without saying so.
# Where the docstring says None after ":returns:", that is read; these are the others.
_NONE_ON_FAILURE = {
    "build_engine_with_config",
    "build_serialized_network",
    "create_engine_inspector",
    "create_execution_context",
    "create_timing_cache",
    "get_aliased_input_tensor",
    "serialize",
}
_NONE_WHERE_ABSENT = {"parent_phase"}  # "None if there is no parent", says IProgressMonitor
_WIDER = {  # what the caller may pass, by what the signature says; pybind11 converts
    "Dims": "Dims | collections.abc.Sequence[int]",
}
# Callers pass what pybind11 converts; an override receives the plain number, so plain numbers are what both may use.
_PLAIN = {"SupportsInt": "int", "SupportsFloat": "float"}
_BARE = {
    "dict": "dict[typing.Any, typing.Any]",
    "list": "list[typing.Any]",
    "tuple": "tuple[typing.Any, ...]",
}
_MODULES = {"collections", "typing", "typing_extensions"}
_SAYS_NONE = re.compile(r":returns?:[^\n]*\bNone\b")


class Mender(ast.NodeTransformer):
    """Rewrites a module's definitions in place and drops its docstrings."""

    def __init__(self, module: ast.Module) -> None:
        self._known = {*definitions(module), *vars(builtins), *_MODULES}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = _without_docstring(node.body)
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = self.visit(node.annotation)
        node.value = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        nullable = node.name in _NONE_ON_FAILURE or bool(_SAYS_NONE.search(ast.get_docstring(node) or ""))
        node.body = _without_docstring(node.body)
        node.returns = self._annotation(node.returns, nullable=nullable)
        self._visit_arguments(node.args)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in _BARE:
            return _expression(_BARE[node.id])
        return node if node.id in self._known else _expression("typing.Any")

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        node.slice = self.visit(node.slice)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        outermost = node.value
        while isinstance(outermost, ast.Attribute):
            outermost = outermost.value
        if isinstance(outermost, ast.Name) and outermost.id not in self._known:
            return _expression("typing.Any")
        return _expression(_PLAIN[node.attr]) if node.attr in _PLAIN else node

    def _visit_arguments(self, arguments: ast.arguments) -> None:
        parameters = [*arguments.posonlyargs, *arguments.args]
        defaults = [*[None] * (len(parameters) - len(arguments.defaults)), *arguments.defaults]
        for parameter, default in zip(parameters, defaults, strict=True):
            if parameter.arg == "self":
                parameter.annotation = None
                continue
            none = isinstance(default, ast.Constant) and default.value is None
            parameter.annotation = self._parameter(parameter, nullable=none)

    def _parameter(self, parameter: ast.arg, *, nullable: bool) -> ast.expr:
        wider = _WIDER.get(ast.unparse(parameter.annotation)) if parameter.annotation else None
        annotation = _expression(wider) if wider else parameter.annotation
        return self._annotation(annotation, nullable=nullable or parameter.arg in _NONE_WHERE_ABSENT)

    def _annotation(self, annotation: ast.expr | None, *, nullable: bool) -> ast.expr:
        mended: ast.expr = self.visit(annotation) if annotation else _expression("typing.Any")
        return _expression(f"{ast.unparse(mended)} | None") if nullable else mended


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    return body[1:] if documented and len(body) > 1 else [ast.Expr(ast.Constant(...))] if documented else body


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
