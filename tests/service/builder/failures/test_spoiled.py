"""Engines that are spoiled on their way, and stores that cannot be used: nothing wrong is published."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest

from builder_service.worker import child_process
from tests.servers.s3 import Bucket
from tests.service.builder.builder import BuilderClient
from tests.service.builder.failures.causes import building, failed

TAMPERED = """
from builder_service.pipeline import child
from builder_service.pipeline import export
write_model = export.write_model
def tamper(*args, **named):
    write_model(*args, **named)
    path = args[4] / {file!r}
    {harm}
export.write_model = tamper
child.main()
"""


def _tamper(monkeypatch: pytest.MonkeyPatch, file: str, harm: str) -> None:
    """Let build processes spoil what they exported."""
    code = TAMPERED.format(file=file, harm=harm)
    monkeypatch.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", code))


async def test_an_engine_whose_numbers_are_wrong_says_by_how_much(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = "import numpy; path.write_bytes((numpy.fromfile(path, 'f4') * numpy.float32(1.05)).tobytes())"
    with monkeypatch.context() as patched:
        _tamper(patched, "weights.bin", scale)
        error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERIFICATION_FAILED")
    assert float(error.metadata["value"]) > float(error.metadata["bound"])
    assert error.metadata["figure"] in error.message
    assert (await client.built()).engine == "demo@1", "the wrong one was not published"


async def test_a_graph_that_the_toolchain_does_not_take_comes_with_its_words(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tamper(monkeypatch, "model.onnx", "path.write_bytes(b'rubbish')")
    error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOOLCHAIN_FAILED")
    assert "protobuf" in error.message.lower()


SPOILED = """
from builder_service.pipeline import child
from builder_service.pipeline import pipeline
publish_files = pipeline.publish_files
def spoil(order, plan, files, parent):
    with (plan.out / "weights.bin").open("r+b") as file:
        file.write(bytes(64))
    publish_files(order, plan, files, parent)
pipeline.publish_files = spoil
child.main()
"""


async def test_a_file_that_changes_on_its_way_to_the_store_is_not_published(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", SPOILED))
        error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
    assert "weights.bin" in error.message
    assert (await client.built()).engine == "demo@1", "nothing of the wrong one was stored"


async def test_a_store_that_cannot_be_used_says_which_and_why(tmp_path: Path, model: Path, bucket: Bucket) -> None:
    missing = bucket.url.replace(bucket.name, f"{bucket.name}-missing")
    async with building(tmp_path, model, missing) as client:
        error = await failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORE_UNAVAILABLE")
    assert error.metadata["store"] in error.message
    assert "bucket does not exist" in error.message
