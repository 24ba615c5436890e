"""Our code against the stubs, by mypy; the stubs against the real bindings, by generating them again."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.real_tensorrt import import_real_tensorrt, needs_bindings
from tests.rtx.process import needs_rtx
from typings.cuda_stub import cuda_stub
from typings.pruning import defined_name
from typings.tensorrt_stub import rtx_stub, tensorrt_stub
from typings.uses import files_using, names_in

FOR_BOTH = (
    "builder_service/tensorrt/network.py",
    "builder_service/tensorrt/rtx_compiler.py",
    "common/engine/tensorrt/log.py",
    "common/engine/tensorrt/plan.py",
)
ROOT = Path(__file__).resolve().parents[3]
RIGHT = Path(__file__).with_name("small_build.py").read_text(encoding="utf-8")
MISTAKES = {  # what is right and what is wrong: mypy must name the line, and no other
    "method": ("builder.build_serialized_network(", "builder.build_serialised_network("),
    "keyword": ("pool_size=1 << 30)", "size=1 << 30)"),
    "member": ("Flag.STRONGLY_TYPED", "Flag.STRONG_TYPED"),
    "class": ("trt.OnnxParser(", "trt.OnnxParsers("),
    "constructor": ("trt.Logger(min_severity=", "trt.Logger(severity="),
    "property": ("config.progress_monitor =", "config.progress_monitors ="),
    "override": (
        "def step_complete(self, phase_name: str, step: int) -> bool",
        "def step_complete(self, phase_name: str) -> bool",
    ),
    "method_as_property": (".node_name())", ".node_name.upper())"),
    "function": ("cudart.cudaStreamCreate()", "cudart.cudaCreateStream()"),
    "arguments": ("cudaMemsetAsync(address, 0, length, stream)", "cudaMemsetAsync(address, 0, length)"),
    "results": ("_, stream =", "_, stream, _ ="),
    "unlooked": (
        "bytes(memoryview(serialized))",
        "bytes(memoryview(builder.build_serialized_network(network, config)))",
    ),
}


@needs_bindings
@pytest.mark.nightly
def test_the_committed_stubs_are_what_the_real_bindings_and_our_sources_give() -> None:
    command = [sys.executable, "typings/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_bindings
def test_a_name_that_the_bindings_do_not_have_is_in_no_stub() -> None:
    tensorrt = tensorrt_stub(frozenset({"Builder", "create_network", "creat_network", "BuilderFlag", "TF32", "FP16"}))
    assert "def create_network(self" in tensorrt
    assert "TF32: " in tensorrt
    assert "creat_network" not in tensorrt
    assert "FP16" not in tensorrt
    cuda = cuda_stub(frozenset({"cudaFree", "cudaFreee"}))
    assert "def cudaFree(" in cuda
    assert "cudaFreee" not in cuda


@needs_bindings
def test_the_real_classes_are_there_without_a_gpu() -> None:
    tensorrt = import_real_tensorrt()
    assert issubclass(tensorrt.Logger, tensorrt.ILogger)
    assert "cache_mode" in tensorrt.INetworkDefinition.add_kv_cache_update.__doc__


@needs_bindings
def test_what_the_stubs_add_to_the_signatures_is_so() -> None:
    tensorrt = import_real_tensorrt()
    described = tensorrt.PluginTensorDesc()
    described.dims = (2, 3)
    assert list(described.dims) == [2, 3]  # a sequence passes for Dims, and Dims can be iterated


@needs_bindings
@needs_rtx
@pytest.mark.nightly
def test_what_drives_tensorrt_and_tensorrt_rtx_finds_the_same_in_both() -> None:
    used = frozenset(name for path in FOR_BOTH for name in names_in(ROOT / path, "tensorrt"))
    plain, rtx = (_signatures(ast.parse(stub(used))) for stub in (tensorrt_stub, rtx_stub))
    assert {"OnnxParser.parse_from_file", "IExecutionContext.execute_async_v3", "BuilderFlag.STRICT_NANS"} <= set(plain)
    assert {name: text for name, text in rtx.items() if name in plain} == plain


def _signatures(module: ast.Module) -> dict[str, list[str]]:
    """Parameters of methods, all overloads, and types of attributes, by CLASS.NAME."""
    found: dict[str, list[str]] = {}
    for owner in module.body:
        for item in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(item, ast.FunctionDef):
                found.setdefault(f"{defined_name(owner)}.{item.name}", []).append(ast.unparse(item.args))
            elif isinstance(item, ast.AnnAssign):
                found[f"{defined_name(owner)}.{ast.unparse(item.target)}"] = [ast.unparse(item.annotation)]
    return found


def test_mypy_reports_each_mistake_where_it_is_and_nothing_else(tmp_path: Path) -> None:
    expected = {(name, _write_mistake(tmp_path / f"{name}.py", *texts)) for name, texts in MISTAKES.items()}
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    assert _reported(tmp_path) == expected


@pytest.mark.parametrize("package", ["cuda", "tensorrt", "tensorrt_rtx_bindings"])
def test_mypy_and_the_generator_read_every_file_that_uses_the_bindings(package: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    using = files_using(ROOT, package, tuple(path.name for path in ROOT.iterdir() if _is_ours(path)))
    assert set(using) == set(files_using(ROOT, package))
    assert [path for path in using if not _is_checked(path.relative_to(ROOT), settings)] == []
    excused = [name for override in settings["overrides"] for name in override["module"]]
    assert [name for name in excused if name.split(".")[0] == package] == []


def _write_mistake(path: Path, right: str, wrong: str) -> int:
    """Write the module with one mistake; returns the number of its line."""
    assert RIGHT.count(right) == 1
    path.write_text(RIGHT.replace(right, wrong), encoding="utf-8")
    return RIGHT[: RIGHT.index(right)].count("\n") + 1


def _reported(folder: Path) -> set[tuple[str, int]]:
    """The files and lines of mypy's errors, under the project's settings."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache"), *map(str, folder.glob("*.py"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    errors = re.findall(r"^(.*?):(\d+): error:", done.stdout, re.MULTILINE)
    return {(Path(path).stem, int(line)) for path, line in errors}


def _is_ours(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name not in {"build", "dist", "node_modules"}


def _is_checked(path: Path, settings: dict[str, Any]) -> bool:
    named = any(path.is_relative_to(entry) for entry in settings["files"])
    return named and not any(re.search(pattern, str(path)) for pattern in settings["exclude"])
