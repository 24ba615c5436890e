"""The fakes that tests run over have the names and parameters of the real bindings, as the typings have them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes import tensorrt_rtx as fake_tensorrt_rtx
from tests.fakes.cuda import FakeCuda
from tests.fakes.real_tensorrt import import_real_tensorrt, needs_bindings

TYPINGS = Path(__file__).resolve().parents[3] / "typings"
TENSORRT = ast.parse((TYPINGS / "tensorrt/__init__.pyi").read_text())
RTX = ast.parse((TYPINGS / "tensorrt_rtx_bindings/__init__.pyi").read_text())
CUDA = ast.parse((TYPINGS / "cuda/bindings/runtime.pyi").read_text())
ENUMS = {"DataType", "TensorIOMode", "MemoryPoolType", "BuilderFlag", "NetworkDefinitionCreationFlag"} | {
    "HardwareCompatibilityLevel",
    "ProfilingVerbosity",
    "LayerInformationFormat",
}


def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in TENSORRT.body if isinstance(node, ast.ClassDef)}


def functions(body: list[ast.stmt]) -> dict[str, list[list[str]]]:
    """Parameters by name of a function, those of each overload."""
    found: dict[str, list[list[str]]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append([arg.arg for arg in node.args.args])
    return found


def members(body: list[ast.stmt]) -> set[str]:
    """Names of attributes and enum members."""
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def own_functions(fake: Any) -> dict[str, list[str]]:
    found = {name: value for name, value in vars(fake).items() if not name.startswith("_")}
    plain = {name: value.fget if isinstance(value, property) else value for name, value in found.items()}
    return {
        name: list(inspect.signature(value).parameters)
        for name, value in plain.items()
        if isinstance(value, FunctionType)
    }


FAKES: dict[str, Any] = {
    name: fake
    for name, fake in vars(fake_tensorrt).items()
    if inspect.isclass(fake) and fake.__module__.startswith(fake_tensorrt.__name__)
}


@pytest.mark.parametrize("name", sorted(set(FAKES) - ENUMS))
def test_a_fake_class_has_what_the_real_one_has_with_the_same_parameters(name: str) -> None:
    real = functions(classes()[name].body)
    for method, parameters in own_functions(FAKES[name]).items():
        overloads = [overload[: len(parameters)] for overload in real.get(method, ())]  # the rest has defaults
        assert parameters in overloads or method in members(classes()[name].body), (name, method, parameters)


@pytest.mark.parametrize("name", ["IRuntimeCache", "IRuntimeConfig", "ICudaEngine"])
def test_what_tensorrt_rtx_adds_has_the_parameters_of_the_real_one(name: str) -> None:
    (real,) = [functions(node.body) for node in RTX.body if isinstance(node, ast.ClassDef) and node.name == name]
    found = own_functions(getattr(fake_tensorrt_rtx, name))
    assert found
    assert all(parameters in real[method] for method, parameters in found.items()), (found, real)


@needs_bindings
@pytest.mark.parametrize("name", sorted(ENUMS))
def test_a_fake_enum_has_members_of_the_real_one_alone(name: str) -> None:
    assert set(FAKES[name].__members__) <= set(getattr(import_real_tensorrt(), name).__members__)


@pytest.mark.parametrize("name", sorted(name for name in vars(FakeCuda) if name.startswith("cuda")))
def test_a_fake_call_has_the_parameters_of_cudas(name: str) -> None:
    if not isinstance(getattr(FakeCuda, name), FunctionType):
        assert name in {node.name for node in CUDA.body if isinstance(node, ast.ClassDef)}
        return
    assert functions(CUDA.body)[name] == [own_functions(FakeCuda)[name][1:]]
