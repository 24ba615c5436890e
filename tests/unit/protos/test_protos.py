"""What holds for every message of the wire, and that what was released is not broken unnoticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from sinkserve.builder.v1 import builder_service_pb2, catalog_service_pb2
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2, engine_service_pb2

ROOT = Path(__file__).resolve().parents[3]
PROTOS = sorted((ROOT / "protos" / "sinkserve").rglob("*.proto"))
BUF = Path(sys.executable).parent / "buf"
FILES = (builder_service_pb2, catalog_service_pb2, engine_pb2, conversation_service_pb2, engine_service_pb2)


def _messages() -> Iterator[Descriptor]:
    waiting = [message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()]
    for message in waiting:
        yield message
        waiting += message.nested_types


def _fields() -> Iterator[FieldDescriptor]:
    for message in _messages():
        yield from message.fields


def _type(field: FieldDescriptor) -> str:
    return field.message_type.full_name if field.message_type is not None else ""


def test_durations_and_times_are_named_so() -> None:
    kinds = {"_duration": "google.protobuf.Duration", "_time": "google.protobuf.Timestamp"}
    wrong = [
        field.full_name
        for field in _fields()
        for ending, kind in kinds.items()
        if (_type(field) == kind) != f"_{field.name}".endswith(ending)
    ]
    assert wrong == []


def test_every_list_has_pages() -> None:
    for message in _messages():
        names = set(message.fields_by_name)
        if message.name.startswith("List") and message.name.endswith("Request"):
            assert names >= {"page_size", "page_token"}, message.full_name
        if message.name.startswith("List") and message.name.endswith("Response"):
            assert "next_page_token" in names, message.full_name


def test_no_field_has_the_name_of_its_message() -> None:
    """In C# a property that is called as its class gets another name."""
    messages = list(_messages())
    assert [message.full_name for message in messages if message.name.lower() in message.fields_by_name] == []


@pytest.mark.parametrize("path", PROTOS, ids=[path.stem for path in PROTOS])
def test_enums_stand_above_what_uses_them(path: Path) -> None:
    text = re.sub(r"//.*", "", path.read_text())
    for found in re.finditer(r"^ *enum (\w+)", text, re.MULTILINE):
        used = re.search(rf"^ *(?:optional )?(?:\w+\.)?{found[1]} \w+ =", text, re.MULTILINE)
        assert used is None or found.start() < used.start(), found[1]


def test_what_was_released_goes_on_working() -> None:
    assert _broken(ROOT) == ""


def test_what_would_break_a_client_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos" / "sinkserve" / "runtime" / "v1" / "conversation_service.proto"
    proto.write_text(proto.read_text().replace("  string stop_sequence = 6;", "  string stop_text = 6;"))
    assert "stop_sequence" in _broken(tmp_path)


def _broken(root: Path) -> str:
    released = ROOT / "protos" / "released.binpb"
    compare = [str(BUF), "breaking", "--against", str(released)]
    return subprocess.run(compare, cwd=root, capture_output=True, text=True, check=False).stdout
