from __future__ import annotations

from typing import Any

import pytest

from builder_service.build_key import build_key, tool_versions
from common.digest import digest_of
from common.manifest import EngineFile
from common.spec import (
    BuildOptions,
    CacheGeometry,
    ModelSpec,
    Precision,
    Source,
    TensorRtLlmOptions,
    TensorRtOptions,
)

SPEC = ModelSpec(name="demo", source=Source(uri="/m"))
TOOLS = {"onnx": "1.0"}


def _file(path: str = "config.json", data: bytes = b"{}") -> EngineFile:
    return EngineFile(path=path, media_type="x", digest=digest_of(data), size_bytes=len(data))


def _key(spec: ModelSpec = SPEC, file: EngineFile | None = None, tools: dict[str, str] | None = None) -> str:
    return build_key([file or _file()], spec, tools or TOOLS)


def _with(**changes: Any) -> ModelSpec:
    return SPEC.model_copy(update=changes)


@pytest.mark.parametrize(
    "spec",
    [
        _with(precision=Precision.INT8),
        _with(cache=CacheGeometry(sink_tokens=5)),
        _with(cache=CacheGeometry(window_tokens=99)),
        _with(cache=CacheGeometry(chunk_tokens=1)),
        _with(cache=CacheGeometry(max_slots=1)),
        _with(chat_template="none"),
        _with(options=BuildOptions(ignore_config_fields=("x",))),
        _with(options=BuildOptions(tensorrt=TensorRtOptions(optimization_level=5))),
        _with(options=BuildOptions(tensorrt_llm=TensorRtLlmOptions(tensor_parallel=2))),
    ],
)
def test_every_choice_changes_the_key(spec: ModelSpec) -> None:
    assert _key(spec) != _key()


def test_every_input_changes_the_key() -> None:
    keys = {
        _key(),
        _key(file=_file(data=b"[]")),
        _key(file=_file(path="other.json")),
        _key(tools={"onnx": "1.1"}),
        build_key([_file(), _file("b")], SPEC, TOOLS),
    }
    assert len(keys) == 5


def test_name_place_and_order_do_not_matter() -> None:
    assert _key(_with(name="other", source=Source(uri="/elsewhere"))) == _key()
    one, two = _file("a"), _file("b", b"b")
    assert build_key([one, two], SPEC, TOOLS) == build_key([two, one], SPEC, TOOLS)


def test_the_tools_have_versions() -> None:
    tools = tool_versions()
    assert {"sinkserve", "onnx", "onnxruntime", "numpy", "builder"} <= tools.keys()
    assert all(tools.values())
    assert tools == tool_versions()
