"""The stub of ``cuda.bindings.runtime``: signatures from the real functions, types from their docstrings.

Every function returns a tuple: a ``cudaError_t`` and what C writes through pointers. After an error the rest is None;
the stub has the types of success, so look at the error first.
"""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

MODULE = "cuda.bindings.runtime"
_PLAIN = {
    "bool": "bool",
    "bytes": "bytes",
    "float": "float",
    "int": "int",
    "list[int]": "list[int]",
    "size_t": "int",
    "unsigned int": "int",
    "unsigned long long": "int",
}
_ADDRESSES = {"cudaHostAlloc", "cudaMalloc", "cudaMallocAsync", "cudaMallocHost", "cudaMallocManaged"}  # "Any": an int
_REFERENCE = re.compile(r"`~\.(\w+)`")
_OPTIONAL = re.compile(r"^Optional\[(.*)\]$")
_ANY = re.compile(r"\bAny\b")
_FIELD = re.compile(r"^(\w+) : (.+)$", re.MULTILINE)
_SECTION = r"^{}\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)"


def cuda_stub(used: frozenset[str]) -> str:
    """Write the stub of the members in ``used``; raises ImportError if the bindings are not installed."""
    runtime = importlib.import_module(MODULE)
    written: dict[str, str] = {}
    found = {name for name in used if name.startswith("cuda") and hasattr(runtime, name)}
    while found:
        written |= {name: _definition(runtime, name, used) for name in found}
        mentioned = {name for name in found for name in re.findall(r"\bcuda\w+", written[name])}
        found = {name for name in mentioned - written.keys() if isinstance(getattr(runtime, name, None), type)}
    return "\n".join(written[name] for name in sorted(written))


def _definition(runtime: ModuleType, name: str, used: frozenset[str]) -> str:
    value = getattr(runtime, name)
    if isinstance(value, type):
        return _enum(value, used) if issubclass(value, int) else _class(runtime, value, used)
    return _function(runtime, name, value) if callable(value) else f"{name}: {type(value).__name__}"


def _enum(value: Any, used: frozenset[str]) -> str:  # noqa: ANN401 - the bindings have no types
    # Not an Enum to mypy: of one with a single member it would think that every value is that member.
    members = [f"    {member}: typing.ClassVar[{value.__name__}]" for member in value.__members__ if member in used]
    own = [f"    {name}: {kind}" for name, kind in (("name", "str"), ("value", "int")) if name in used]
    return "\n".join([f"class {value.__name__}(int):", *members, *own, *([] if members or own else ["    ..."])])


def _class(runtime: ModuleType, value: type, used: frozenset[str]) -> str:
    fields = [
        f"    {name}: {_type(runtime, text)}"
        for name, text in _FIELD.findall(inspect.getdoc(value) or "")
        if name in used and hasattr(value, name)
    ]
    if _is_handle(value):
        fields += ["    def __init__(self, init_value: int = ...) -> None: ...", "    def __int__(self) -> int: ..."]
    return "\n".join([f"class {value.__name__}:", *(fields or ["    ..."])])


def _function(runtime: ModuleType, name: str, value: Any) -> str:  # noqa: ANN401 - the bindings have no types
    documented = dict(_FIELD.findall(_section(value, "Parameters")))
    parameters = [
        f"{parameter.name}: {_parameter(runtime, parameter, documented)}"
        + (" = ..." if parameter.default is not parameter.empty else "")
        for parameter in inspect.signature(value).parameters.values()
    ]
    return f"def {name}({', '.join(parameters)}) -> tuple[{', '.join(_returned(runtime, name, value))}]: ..."


def _parameter(runtime: ModuleType, parameter: inspect.Parameter, documented: dict[str, str]) -> str:
    if isinstance(parameter.annotation, str):
        return _OPTIONAL.sub(r"\1 | None", _ANY.sub("typing.Any", parameter.annotation))
    found = _type(runtime, documented.get(parameter.name, "Any"))
    return f"{found} | int" if _is_handle(getattr(runtime, found, None)) else found


def _is_handle(value: Any) -> bool:  # noqa: ANN401 - the bindings have no types
    """Whether it is a class of opaque addresses, in whose place the functions take the plain address."""
    return isinstance(value, type) and hasattr(value, "__int__") and not issubclass(value, int)


def _returned(runtime: ModuleType, name: str, value: Any) -> list[str]:  # noqa: ANN401 - the bindings have no types
    lines = [line for line in _section(value, "Returns").splitlines() if line and not line.startswith(" ")]
    rest = [_type(runtime, line.partition(" : ")[2] or line) for line in lines[1:]]
    return ["cudaError_t", *("int" if kind == "typing.Any" and name in _ADDRESSES else kind for kind in rest)]


def _section(value: Any, title: str) -> str:  # noqa: ANN401 - the bindings have no types
    match = re.search(_SECTION.format(title), inspect.getdoc(value) or "", re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def _type(runtime: ModuleType, text: str) -> str:
    """The type that a docstring names: a plain one, a class of the module, or Any."""
    names = [name for name in (text, *_REFERENCE.findall(text)) if name.startswith("cuda")]
    classes = [name for name in names if isinstance(getattr(runtime, name, None), type)]
    return _PLAIN.get(text) or (classes[0] if classes else "typing.Any")
