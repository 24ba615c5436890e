"""Stubs of ``tensorrt`` and of TensorRT-RTX: what pybind11-stubgen reads from the real bindings, made fit for mypy and
pruned.

stubgen's text is not quite Python: C++ names stand where a class was bound late, and a few parameters are keywords or
lack a default. Names are mapped back; a definition that cannot be mended is left out, so that using it is an error.
"""

from __future__ import annotations

import ast
import importlib
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from typings.annotations import Mender
from typings.pruning import defined_name, definitions, prune
from typings.stub_libraries import BINDINGS, import_bindings

ROOT = Path(__file__).resolve().parent.parent
RTX = "tensorrt_rtx_bindings"
_CPP_CLASSES = {"IParserError": "ParserError", "IBuilder": "Builder"}  # the others are named as in Python
_CPP_TEMPLATE = re.compile(r"(?:\w+::)+\w+<[^<>]*>")
_CPP_NAME = re.compile(r"(?:\b\w+::)+(\w+)")
_DEFAULT_OF_ENUM = re.compile(r"= <[^<>]*>")
# The protocols that the bindings have and no signature shows, or not on every Python.
_PROTOCOLS = {
    "Dims": "def __iter__(self) -> collections.abc.Iterator[int]: ...",
    "IHostMemory": "def __buffer__(self, flags: int, /) -> memoryview: ...",
    "IStreamWriter": "def write(self, data: bytes) -> int: ...",  # what an override is called with
}


def tensorrt_stub(used: frozenset[str]) -> str:
    """Write the stub of the members in ``used``; raises what import_bindings raises."""
    import_bindings()
    module = parse(_stubgen())
    module.body += _constants()
    return _mended(module, used)


def rtx_stub(used: frozenset[str]) -> str:
    """The same of TensorRT-RTX. In a process of its own: TensorRT's symbols have the same names."""
    script = "from typings.tensorrt_stub import print_rtx; print_rtx()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return _mended(parse(done.stdout), used)


def print_rtx() -> None:
    """Print what stubgen makes of TensorRT-RTX."""
    sys.stdout.write(_stubgen(RTX, "tensorrt_rtx"))


def _mended(module: ast.Module, used: frozenset[str]) -> str:
    for name, method in _PROTOCOLS.items():
        _set_method(_class(module, name), method)
    return written(module, used)


def written(module: ast.Module, used: frozenset[str]) -> str:
    """Mend and prune a parsed stub, in place, and write it."""
    Mender(module).visit(module)
    _drop_repeated(module)
    return ast.unparse(ast.Module(prune(module, used), []))


def parse(text: str) -> ast.Module:
    """Parse stubgen's text; a definition that is not Python loses its name."""
    lines = _DEFAULT_OF_ENUM.sub("= ...", _in_python(text)).split("\n")
    while True:
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as error:
            _unname(lines, (error.lineno or 1) - 1)


def _in_python(text: str) -> str:
    text = text.replace("collections.abc.Buffer", "typing_extensions.Buffer")  # its home from Python 3.12
    text = _CPP_TEMPLATE.sub("typing.Any", text)
    return _CPP_NAME.sub(lambda match: _CPP_CLASSES.get(match[1], match[1]), text)


def _unname(lines: list[str], index: int) -> None:
    mended = re.sub(r"^(\s*)def .*:$", r"\1def _not_python() -> None:", lines[index])
    if mended == lines[index]:
        raise ValueError(f"stubgen wrote what is not Python: {lines[index].strip()}")
    lines[index] = mended


def _stubgen(package: str = BINDINGS, name: str = "tensorrt") -> str:
    import pybind11_stubgen  # noqa: PLC0415 - only where stubs are made

    logging.getLogger("pybind11_stubgen").setLevel(logging.CRITICAL)  # each C++ name is an error to it
    options = ["--ignore-all-errors", "--numpy-array-remove-parameters", "--print-invalid-expressions-as-is"]
    with tempfile.TemporaryDirectory() as folder:
        pybind11_stubgen.main([*options, "--output-dir", folder, f"{package}.{name}"])
        return (Path(folder) / package / f"{name}.pyi").read_text(encoding="utf-8")


def _constants() -> list[ast.stmt]:
    """Strings that the package itself adds to the compiled module: its version."""
    package = vars(importlib.import_module(BINDINGS))
    return ast.parse("\n".join(f"{name}: str" for name in ("__version__",) if isinstance(package.get(name), str))).body


def _set_method(owner: ast.ClassDef, text: str) -> None:
    method = ast.parse(text).body[0]
    owner.body = [*(member for member in owner.body if defined_name(member) != defined_name(method)), method]


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    found = definitions(module)[name][0]
    if not isinstance(found, ast.ClassDef):
        raise TypeError(f"{name} is not a class of TensorRT any more")
    return found


def _drop_repeated(module: ast.Module) -> None:
    """Drop what a class repeats of its base: to mypy a repeated class (Logger.Severity) would be another one."""
    classes = {item.name: item for item in module.body if isinstance(item, ast.ClassDef)}
    texts = {name: {ast.unparse(member) for member in item.body} for name, item in classes.items()}
    for item in classes.values():
        inherited = {text for base in item.bases for text in texts.get(ast.unparse(base), ())}
        own = [member for member in item.body if ast.unparse(member) not in inherited]
        item.body = own or [ast.Expr(ast.Constant(...))]
