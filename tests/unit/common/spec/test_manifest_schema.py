"""common/spec/manifest.schema.json says what the code says. Run this file to write it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from common.spec import manifest as module
from common.spec.manifest import EngineFile, Manifest
from common.window import Geometry
from tests.samples.whole_manifests import DIGEST, HARDWARE, TEMPLATE, make_manifest

SCHEMA = Path(module.__file__).with_name("manifest.schema.json")
LEAST = make_manifest(Geometry(4, 60, 8, 2))
FILE = EngineFile(path="tokenizer.json", media_type="application/json", digest=DIGEST, size_bytes=5)
WHOLE = make_manifest(Geometry(4, 60, 8, 2), template=TEMPLATE, hardware=HARDWARE, end_token_ids=(1,)).model_copy(
    update={"warnings": ("w",), "files": (FILE,), "source_files": (FILE,), "tool_versions": {"onnx": "1.23.0"}}
)


def _text() -> str:
    return json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text())
    return schema


def _errors(manifest: object) -> list[str]:
    return [error.message for error in Draft202012Validator(_schema()).iter_errors(manifest)]


def _plain(manifest: Manifest) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(manifest.canonical())
    return data


def test_the_schema_is_what_the_code_says() -> None:
    assert SCHEMA.read_text() == _text(), f"write it anew: python {Path(__file__).name}"


def test_the_schema_is_a_schema_and_names_its_format() -> None:
    Draft202012Validator.check_schema(_schema())
    assert _schema()["$id"].endswith("manifest-1.schema.json")
    assert _schema()["properties"]["format"]["const"] == 1


def test_the_schema_explains_every_field() -> None:
    schema = _schema()
    assert all("description" in field or "$ref" in field for field in schema["properties"].values())


@pytest.mark.parametrize("manifest", [LEAST, WHOLE])
def test_what_is_stored_is_valid(manifest: Manifest) -> None:
    assert _errors(_plain(manifest)) == []


def test_a_manifest_from_before_a_field_with_a_default_is_valid() -> None:
    data = _plain(WHOLE)
    del data["hardware"], data["warnings"], data["spec"]["options"]
    assert _errors(data) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "1 was expected"),
        ({"surprise": 1}, "'surprise' was unexpected"),
        ({"build_key": "md5:0"}, "does not match"),
        ({"version": "x"}, "is not of type 'integer'"),
        ({"spec": {"name": "A", "source": {"uri": "/m"}}}, "'A' does not match"),
    ],
)
def test_what_is_no_manifest_is_not(change: dict[str, Any], said: str) -> None:
    assert any(said in error for error in _errors(_plain(WHOLE) | change))


if __name__ == "__main__":
    SCHEMA.write_text(_text())
