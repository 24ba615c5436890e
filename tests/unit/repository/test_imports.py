"""Processes start without what they may not need: each of these takes a tenth of a second of every start, or more."""

from __future__ import annotations

import subprocess
import sys

import pytest

DATABASES = ("alembic", "psycopg")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("runtime_service.service", (*DATABASES, "onnx", "jinja2")),
        ("builder_service.service", (*DATABASES, "gguf", "onnxruntime", "jinja2")),
        (
            "builder_service.pipeline.child",
            ("gguf", "jinja2", "pydantic_settings", "sqlalchemy", "grpc", "transformers"),
        ),
    ],
)
def test_a_process_imports_nothing_that_it_may_not_need(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {unwanted} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
