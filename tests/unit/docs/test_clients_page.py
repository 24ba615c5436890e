"""docs/use/clients.md names every reason, with the codes that it comes with, and what it has generated can be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import RETRY
from common.rpc.grpc_status import CODES
from sinkserve.engine.v1 import engine_pb2
from tests.pages.retry_table import NONE, PAGE, ROOT, raised, rows, said

BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)")
PLUGIN = """#!{python}
import os, pathlib, sys
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorResponse
request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
pathlib.Path(f"{{os.getpid()}}.asked").write_text("\\n".join(request.file_to_generate))
sys.stdout.buffer.write(CodeGeneratorResponse(supported_features=1).SerializeToString())
"""
PROTOC = """#!/bin/sh
[ "$1" = --version ] && echo libprotoc 35.1 || cat > described
"""


def test_every_reason_is_in_the_table() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in engine_pb2.ErrorReason.keys()}  # noqa: SIM118 - not a dict
    assert {row.reason for row in rows()} - {NONE} == names - {"UNSPECIFIED"}


def test_every_reason_has_the_codes_that_it_is_raised_with() -> None:
    told: dict[str, list[str]] = {}
    for row in rows():
        told.setdefault(row.reason, []).extend(row.codes)
    del told[NONE]
    assert {reason: sorted(codes) for reason, codes in told.items()} == {
        reason: sorted(codes) for reason, codes in raised().items()
    }


def test_the_table_says_what_errors_say() -> None:
    told = {(row.reason, code): row.retry for row in rows() if row.reason != NONE for code in row.codes}
    assert told == {(reason, code): said(reason, code) for reason, code in told}


def test_whatever_may_be_tried_again_is_raised() -> None:
    codes = raised()
    assert [(kind, reason) for kind, reason in RETRY if CODES[kind].name not in codes[reason]] == []


def test_who_is_told_that_a_server_is_unavailable_may_try_again() -> None:
    told = [row for row in rows() if row.reason != NONE and "UNAVAILABLE" in row.codes]
    assert [row for row in told if row.retry == "never"] == []


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_generated_is_all_of_ours(block: str, tmp_path: Path) -> None:
    (tmp_path / "sinkserve").symlink_to(ROOT)
    (tmp_path / "buf.gen.yaml").write_text(block)
    for name, text in (*((plugin, PLUGIN) for plugin in _plugins(block)), ("protoc", PROTOC)):
        (tmp_path / name).write_text(text.format(python=sys.executable) if text is PLUGIN else text)
        (tmp_path / name).chmod(0o755)
    buf = Path(sys.executable).parent / "buf"
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([buf, "generate"], cwd=tmp_path, env=os.environ | path, check=True)
    asked = {name for file in tmp_path.glob("*.asked") for name in file.read_text().splitlines()}
    protos = {str(file.relative_to(ROOT / "protos")) for file in (ROOT / "protos" / "sinkserve").rglob("*.proto")}
    google = {"google/rpc/status.proto", "google/rpc/error_details.proto"}
    assert asked in (protos, protos | google)  # who restricts the paths has google.rpc from a package


def _plugins(block: str) -> list[str]:
    settings: dict[str, Any] = yaml.safe_load(block)
    return [plugin["local"] for plugin in settings["plugins"] if "local" in plugin]


def test_what_is_linked_is_there() -> None:
    targets = [target for target in LINK.findall(PAGE.read_text()) if "://" not in target]
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []
