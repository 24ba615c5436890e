from __future__ import annotations

import ast
import platform
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import builder_service
import common
from builder_service.pipeline.build_key import TOOLS, build_key, own_digest, tool_versions
from common.digest import digest_of
from common.spec.hardware import GpuMachine
from common.spec.manifest import EngineFile
from common.spec.model_spec import ModelSpec, Precision, Source, Target
from common.spec.target_options import HardwareCompatibility, KvPrecision

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
KNOWN = {"onnx": "1.0", "numpy": "2.0"}
MACHINE = GpuMachine(
    gpu="NVIDIA H200",
    compute_capability="9.0",
    tensorrt_version="11.4.0.106",
    cuda_version="13.0",
    cuda_driver_version="13.1",
    platform="linux-x86_64",
    free_bytes=1,
    total_bytes=2,
)
OTHER: dict[str, Any] = {
    "target": Target.TENSORRT,
    "precision": Precision.INT8,
    "cache.sink_tokens": 5,
    "cache.window_tokens": 99,
    "cache.chunk_tokens": 1,
    "cache.max_slots": 1,
    "chat_template": "none",
    "template_variables": {"enable_thinking": (True, False)},
    "options.ignore_config_fields": ("x",),
    "options.onnxruntime.int4_block": 64,
    "options.onnxruntime.kv_precision": KvPrecision.INT8,
    "options.tensorrt.workspace_mib": 512,
    "options.tensorrt.optimization_level": 5,
    "options.tensorrt.hardware_compatibility": HardwareCompatibility.AMPERE_PLUS,
    "options.tensorrt.version_compatible": True,
    "options.tensorrt.int4_block": 128,
    "options.tensorrt_rtx.int4_block": 64,
    "options.tensorrt_rtx.compute_capabilities": ("sm86",),
    "options.tensorrt_llm.version": "1.2.3",
    "options.tensorrt_llm.tensor_parallel": 2,
    "options.tensorrt_llm.pipeline_parallel": 2,
    "options.tensorrt_llm.quantization": "FP8",
    "options.tensorrt_llm.kv_memory_fraction": 0.5,
    "options.tensorrt_llm.stride_tokens": 9,
}
"""Another value for each field of a spec that changes the engine; all but `WHERE`."""
WHERE = ("name", "source", "hardware")
SILENT = {
    "alembic": "the database's schema",
    "cryptography": "reads the keys that sign engines",
    "grpc": "the wire",
    "grpc_health": "the wire",
    "grpc_reflection": "the wire",
    "grpc_status": "the wire",
    "httpx2": "speaks to registries",
    "jwt": "says who calls",
    "opentelemetry": "traces",
    "huggingface_hub": "fetches files, which are digested",
    "obstore": "moves bytes, which are digested",
    "prometheus_client": "counts",
    "psycopg": "speaks to the database",
    "psutil": "what is free, to refuse early",
    "pydantic": "checks what was written, and hands it on",
    "pydantic_core": "likewise",
    "pydantic_settings": "the services' settings",
    "safetensors": "reads the weights once more, to check how they were read",
    "securesystemslib": "signs engines",
    "sqlalchemy": "the queue and the catalog",
    "structlog": "the log",
    "yaml": "reads specs, which are part of the key",
    "tensorrt": "in the key as the machine's",
    "tensorrt_rtx_bindings": "in the key of what it compiles",
    "cuda": "in the key as the machine's",
}
"""Packages that the builder imports, and whose version does not change an engine; why."""
NAMES = {"google": "protobuf", "ml_dtypes": "ml-dtypes"}
"""Names of packages where they are imported by another."""


def _file(path: str = "config.json", data: bytes = b"{}") -> EngineFile:
    return EngineFile(path=path, media_type="x", digest=digest_of(data), size_bytes=len(data))


def _key(spec: ModelSpec = SPEC, *files: EngineFile, tools: dict[str, str] | None = None) -> str:
    return build_key(files or [_file()], spec, tools or KNOWN)


def _paths(model: type[BaseModel]) -> Iterator[str]:
    """Dotted paths of all fields that hold no others."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in _paths(field.annotation))
        else:
            yield name


def _changed(part: Any, path: str, value: object) -> Any:
    name, _, inner = path.partition(".")
    return part.model_copy(update={name: _changed(getattr(part, name), inner, value) if inner else value})


def test_every_field_of_a_spec_is_tried() -> None:
    assert {path for path in _paths(ModelSpec) if not path.startswith(WHERE)} == set(OTHER)


@pytest.mark.parametrize("path", OTHER)
def test_every_choice_changes_the_key(path: str) -> None:
    assert _key(_changed(SPEC, path, OTHER[path])) != _key()


@pytest.mark.parametrize("path", [path for path in _paths(ModelSpec) if path.startswith(WHERE)])
def test_name_and_place_do_not_matter(path: str) -> None:
    assert _key(_changed(SPEC, path, "other")) == _key()


def test_every_file_changes_the_key_by_its_bytes_and_by_its_name() -> None:
    one, two = _file("a"), _file("b", b"b")
    keys = [
        _key(SPEC, one, two),
        _key(SPEC, one),
        _key(SPEC, one, _file("b", b"c")),
        _key(SPEC, one, _file("c", b"b")),
        _key(SPEC, _file("b"), _file("a", b"b")),
    ]
    assert len(set(keys)) == len(keys)
    assert _key(SPEC, two, one) == keys[0], "in any order"


@pytest.mark.parametrize("tool", tool_versions(MACHINE, "2026-01-02"))
def test_every_tool_changes_the_key(tool: str) -> None:
    tools = tool_versions(MACHINE, "2026-01-02")
    assert tools[tool]
    assert _key(tools=tools | {tool: "other"}) != _key(tools=tools)


@pytest.mark.parametrize("package", TOOLS)
def test_a_package_that_is_upgraded_is_another_tool(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tool_versions()
    monkeypatch.setattr(
        "builder_service.pipeline.build_key.version", lambda name: "99" if name == package else version(name)
    )
    assert tool_versions() == before | {package: "99"}


def test_so_is_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tool_versions()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99")
    assert tool_versions() == before | {"python": "3.99"}


def test_every_package_that_the_builder_imports_is_a_tool_or_does_not_matter() -> None:
    imported = {name for package in (builder_service, common) for name in _imports(Path(str(package.__file__)).parent)}
    foreign = imported - set(sys.stdlib_module_names) - {"builder_service", "common", "sinkserve"}
    assert {name for name in foreign if NAMES.get(name, name) not in TOOLS} <= set(SILENT)


def _imports(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", [field.name for field in fields(GpuMachine)])
def test_of_a_machine_counts_what_a_compiled_engine_depends_on(name: str) -> None:
    change: dict[str, Any] = {name: 7 if name.endswith("_bytes") else "other"}
    same = tool_versions(replace(MACHINE, **change)) == tool_versions(MACHINE)
    assert same == (name in {"cuda_driver_version", "free_bytes", "total_bytes"})


def test_without_a_machine_the_tools_are_packages_python_and_this_code() -> None:
    assert set(tool_versions()) == {*TOOLS, "python", "builder"}
    assert tool_versions() == tool_versions()


def test_the_code_that_builds_is_part_of_the_key(tmp_path: Path) -> None:
    for path in ("builder_service/a.py", "common/b.py", "common/deep/c.py", "runtime_service/d.py", "common/e.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
    digests = [own_digest(tmp_path)]
    for path in ("builder_service/a.py", "common/b.py", "common/deep/c.py"):
        (tmp_path / path).write_text("x = 2\n")
        digests.append(own_digest(tmp_path))
    (tmp_path / "common/b.py").rename(tmp_path / "common/f.py")
    digests.append(own_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    (tmp_path / "runtime_service/d.py").write_text("x = 2\n")
    (tmp_path / "common/e.md").write_text("x = 2\n")
    assert own_digest(tmp_path) == digests[-1]


def test_the_code_is_that_of_this_checkout() -> None:
    root = Path(str(builder_service.__file__)).parent.parent
    assert tool_versions()["builder"] == own_digest(root)
