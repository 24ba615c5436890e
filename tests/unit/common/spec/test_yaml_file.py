from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InvalidArgument, NotFound, Reason
from common.spec.model_spec import Precision
from common.spec.yaml_file import MOST_BYTES, parse_spec, read_spec_file
from tests.samples import not_files

SPEC = """
name: demo
source: {uri: ./model}          # relative to this file
target: onnxruntime
precision: int8
cache: {sink_tokens: 4, window_tokens: 252, chunk_tokens: 64, max_slots: 8}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "specs" / "spec.yaml"
    path.parent.mkdir()
    path.write_text(SPEC)
    return path


def test_a_file_is_read_and_its_source_is_relative_to_it(file: Path) -> None:
    spec = read_spec_file(file)
    assert spec.precision is Precision.INT8
    assert spec.cache.window_tokens == 252
    assert spec.source.uri == str(file.parent / "model")


@pytest.mark.parametrize("uri", ["/models/demo", "file:///models/demo", "hf://org/repo", "http://["])
def test_what_is_not_relative_stays(tmp_path: Path, uri: str) -> None:
    assert parse_spec(f"{{name: demo, source: {{uri: {json.dumps(uri)}}}}}", tmp_path).source.uri == uri


def test_home_is_written_as_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    spec = parse_spec("{name: demo, source: {uri: ~/model, adapter: ./tuned}}", tmp_path)
    assert spec.source.uri == str(tmp_path / "me" / "model")
    assert spec.source.adapter == str(tmp_path / "tuned")


def test_overrides_replace_fields_by_their_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    spec = read_spec_file(
        file, {"name": "other", "cache.window_tokens": "100", "source.uri": "elsewhere", "precision": "int4"}
    )
    assert (spec.name, spec.cache.window_tokens, spec.cache.sink_tokens) == ("other", 100, 4)
    assert spec.source.uri == str(file.parent.parent / "elsewhere"), "as seen from where it was typed"
    assert spec.precision is Precision.INT4


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cache.window", "5", "did you mean window_tokens"),
        ("nmae", "x", "did you mean name"),
        ("name", "[", "name: .* is not YAML"),
    ],
)
def test_an_override_that_is_wrong_is_named(file: Path, key: str, value: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read_spec_file(file, {key: value})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mapping"),
        ("- a\n- b", "mapping"),
        ("name: [", "is not YAML"),
        ('name: !!int ""', "is not YAML"),
        ("!!bool x", "is not YAML"),
        ("!!timestamp x", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("name: demo", "source: is required"),
        ("{name: demo, source: model}", "source"),
        ("{name: demo, source: {uri: 7}}", r"source\.uri"),
        ("{name: demo, source: {url: x}}", "did you mean uri"),
        ("{name: demo, source: {uri: x}, cache: {window_tokens: 0}}", r"cache\.window_tokens"),
        ("{1: 2}", "keys should be strings"),
        ("{[1]: 2}", "is not YAML"),
        ("name: a\nsource: {uri: x}\nname: b", "'name' is given twice, in line 1 and line 3; keep one"),
        ("name: a\nsource:\n  uri: x\n  uri: y", "'uri' is given twice, in line 3 and line 4; keep one"),
        ("name: &a [x]\nsource: *a", "no aliases"),
        ("name: 2001-99-99", "is not YAML"),
        ("name: " + "1" * 5000, "is not YAML"),
        ("name: " + "[" * 20_000, "is not YAML"),
        ("{name: demo, source: {uri: ~~/x}, chat: 1}", "there is no such field"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        parse_spec(text, tmp_path)
    assert caught.value.reason is Reason.INVALID_SPEC


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=str(tmp_path / "no.yaml")):
        read_spec_file(tmp_path / "no.yaml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match=r"spec\.yaml is no text in UTF-8, and a spec is YAML"):
        read_spec_file(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("a model", "'a model'"),
        ("x.GGUF", "x.GGUF"),
        ("a model/config.json", "'a model'"),
        ("a model/model.safetensors", "'a model'"),
        ("hf://org/model@main", "hf://org/model@main"),
        ("s3://bucket/x.gguf", "s3://bucket/x.gguf"),
    ],
)
def test_a_model_in_place_of_a_spec_is_told_with_the_commands_for_it(
    tmp_path: Path, path: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a model").mkdir()
    with pytest.raises(InvalidArgument) as caught:
        read_spec_file(Path(path))
    assert f"`sinkserve spec init {model}` writes one, `sinkserve run {model}` needs none" in caught.value.message
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_not_a_file_is_refused_and_not_read(tmp_path: Path, kind: str) -> None:
    not_files.put(kind, tmp_path / "spec.yaml")
    with pytest.raises(InvalidArgument, match=r"spec\.yaml is not a regular file") as caught:
        read_spec_file(tmp_path / "spec.yaml")
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize("name", ["a" * 256, "circle", "a\0b"])
def test_a_file_whose_name_leads_nowhere_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(NotFound, match="there is no spec file"):
        read_spec_file(tmp_path / name)


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC + "#" * MOST_BYTES)
    with pytest.raises(InvalidArgument, match=r"spec\.yaml is longer than"):
        read_spec_file(tmp_path / "spec.yaml")
