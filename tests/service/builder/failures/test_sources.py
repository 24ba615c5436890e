"""Builds of what cannot be built, for real: builder, database, build processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sinkserve.engine.v1 import engine_pb2
from tests.service.builder.builder import BuilderClient
from tests.service.builder.failures.causes import failed


async def test_a_broken_tensor_is_named_with_its_file(client: BuilderClient, model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, model / "model.safetensors")
    error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CHECKPOINT_INVALID")
    assert (error.metadata["file"], error.metadata["tensor"]) == ("model.safetensors", "model.norm.weight")
    assert "finite" in error.message


def _edit(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


async def test_an_unknown_architecture_is_named(client: BuilderClient, model: Path) -> None:
    _edit(model, architectures=["BertModel"])
    error = await failed(client)
    assert (error.reason, "BertModel" in error.message) == ("ARCHITECTURE_UNSUPPORTED", True)


async def test_an_unknown_field_of_the_config_is_named(client: BuilderClient, model: Path) -> None:
    _edit(model, new_maths=1)
    error = await failed(client)
    assert (error.reason, "new_maths" in error.message) == ("CONFIG_UNSUPPORTED", True)


async def test_a_spec_that_does_not_suit_the_model_is_named_with_its_field(client: BuilderClient, model: Path) -> None:
    _edit(model, max_position_embeddings=15)
    error = await failed(client)
    assert (error.reason, "window_tokens" in error.message) == ("INVALID_SPEC", True)


async def test_a_missing_file_is_named(client: BuilderClient, model: Path) -> None:
    (model / "model.safetensors").unlink()
    error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND")
    assert "model.safetensors" in error.message


async def test_a_source_outside_the_roots_is_refused_with_the_roots(client: BuilderClient, tmp_path: Path) -> None:
    error = await failed(client, source=engine_pb2.Source(uri="/etc"))
    assert (error.reason, str(tmp_path) in error.message) == ("SOURCE_NOT_ALLOWED", True)


async def test_a_target_that_this_machine_cannot_compile_for_is_refused(client: BuilderClient) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may compile for it")
    changes: dict[str, Any] = {
        "target": engine_pb2.TARGET_TENSORRT,
        "precision": engine_pb2.PRECISION_FP16,
    }
    error = await failed(client, **changes)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_INCOMPATIBLE")
