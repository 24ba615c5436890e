"""TensorRT-LLM's package, in its version, and the model in it; over a fake of the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from common.errors import FailedPrecondition, Reason
from runtime_service.recompute.tensorrt_llm_generator import TensorRtLlmGenerator
from tests.fakes import tensorrt_llm as fake_tensorrt_llm
from tests.unit.runtime_service.recompute.test_tensorrt_llm_generator import ARGUMENTS, VERSION, fake_of


def test_the_fake_refuses_keywords_that_the_package_does_not_have() -> None:
    misspelt: dict[Callable[..., object], str] = {
        fake_tensorrt_llm.SamplingParams: "max_token",
        partial(fake_tensorrt_llm.LLM, "model"): "max_sequence_len",
        fake_tensorrt_llm.KvCacheConfig: "free_memory_fraction",
    }
    for call, keyword in misspelt.items():
        with pytest.raises(TypeError, match="unexpected keyword"):
            call(**{keyword: 1})


def test_the_arguments_of_the_model_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt_llm.install(monkeypatch, VERSION)
    arguments = replace(ARGUMENTS, tensor_parallel=4, pipeline_parallel=2, kv_memory_fraction=0.5)
    generator = TensorRtLlmGenerator(arguments)
    given = fake_of(generator).arguments
    generator.close()
    assert {name: given[name] for name in ("model", "dtype", "tensor_parallel_size", "pipeline_parallel_size")} == {
        "model": "/models/demo",
        "dtype": "bfloat16",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
    }
    assert (given["max_batch_size"], given["max_seq_len"], given["skip_tokenizer_init"]) == (4, 64, True)
    assert given["kv_cache_config"] == fake_tensorrt_llm.KvCacheConfig(free_gpu_memory_fraction=0.5)


def test_without_the_package_an_engine_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(FailedPrecondition, match="needs the tensorrt_llm package") as refused:
        TensorRtLlmGenerator(ARGUMENTS)
    assert refused.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert refused.value.metadata["tensorrt_llm"] == VERSION


def test_another_version_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt_llm.install(monkeypatch, "1.2.1")
    with pytest.raises(FailedPrecondition, match=r"here is 1\.2\.1"):
        TensorRtLlmGenerator(ARGUMENTS)


def test_a_model_that_cannot_be_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_keywords: object) -> None:
        raise RuntimeError("no GPU")

    fake_tensorrt_llm.install(monkeypatch, VERSION)
    package: ModuleType = sys.modules["tensorrt_llm"]
    monkeypatch.setattr(package, "LLM", broken)
    with pytest.raises(FailedPrecondition, match="cannot load the model: no GPU"):
        TensorRtLlmGenerator(ARGUMENTS)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"quantization": {"quant_algo": "NVFP4"}}'])
def test_weights_that_are_not_quantized_as_they_have_to_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    fake_tensorrt_llm.install(monkeypatch, VERSION)
    path = tmp_path / "hf_quant_config.json"
    if text is not None:
        path.write_text(text)
    arguments = replace(ARGUMENTS, model=tmp_path, quantization="FP8")
    with pytest.raises(FailedPrecondition, match="quantized to FP8"):
        TensorRtLlmGenerator(arguments)
    path.write_text('{"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": null}}')
    TensorRtLlmGenerator(arguments).close()
