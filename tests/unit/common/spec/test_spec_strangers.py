"""What a spec may not say is an error at every depth, with its path, in YAML and on the wire alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import Message
from pydantic import BaseModel

from common.errors import InvalidArgument, Reason
from common.rpc.wire import spec_from_wire
from common.spec.model_spec import ModelSpec
from common.spec.yaml_file import parse_spec
from sinkserve.engine.v1 import engine_pb2

STRANGE_NUMBER = b"\xf8\x7f\x01"  # field 2047 = 1


def _models(model: type[BaseModel] = ModelSpec, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all parts of a spec that hold fields, the spec itself first."""
    yield path
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _models(field.annotation, (*path, name))


def _fields(path: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = ModelSpec
    for name in path:
        inner = model.model_fields[name].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def _leaves() -> Iterator[tuple[str, ...]]:
    """Paths of all fields that hold no others."""
    parts = set(_models())
    yield from ((*path, name) for path in parts for name in _fields(path) if (*path, name) not in parts)


def _read(path: tuple[str, ...], value: object) -> ModelSpec:
    """Read YAML that says `value` at `path`, and else what it has to."""
    data: dict[str, Any] = {"name": "a", "source": {"uri": "/m"}}
    part = data
    for name in path[:-1]:
        part = part.setdefault(name, {})
    part[path[-1]] = value
    return parse_spec(yaml.safe_dump(data), Path("/"))


def _refused(path: tuple[str, ...], value: object) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        _read(path, value)
    assert caught.value.reason is Reason.INVALID_SPEC
    return {violation.field: violation.description for violation in caught.value.violations}


@pytest.mark.parametrize("path", list(_models()), ids=".".join)
def test_a_misspelt_key_is_refused_wherever_it_is_and_the_right_one_suggested(path: tuple[str, ...]) -> None:
    for name in _fields(path):
        wrong = (*path, f"{name[:-1]}x{name[-1]}")
        assert f"did you mean {name}?" in _refused(wrong, 1)[".".join(wrong)]


@pytest.mark.parametrize("path", list(_models()), ids=".".join)
def test_a_key_that_is_like_no_other_lists_those_there_are(path: tuple[str, ...]) -> None:
    wrong = (*path, "zzz")
    assert f"known are {', '.join(_fields(path))}" in _refused(wrong, 1)[".".join(wrong)]


@pytest.mark.parametrize("path", sorted(_leaves()), ids=".".join)
def test_a_value_of_another_kind_is_refused_wherever_it_is(path: tuple[str, ...]) -> None:
    refused = _refused(path, {"a": {"b": 1}})
    assert all(" is wrong: " in refused[field] for field in refused if field.startswith(".".join(path)))
    assert " is wrong: " in _refused(path, None)[".".join(path)]


@pytest.mark.parametrize("path", [path for path in _models() if path], ids=".".join)
def test_a_part_that_is_not_a_mapping_is_refused(path: tuple[str, ...]) -> None:
    assert " is wrong: " in _refused(path, 7)[".".join(path)]


@pytest.mark.parametrize("value", [True, "8", 8.0, 8.5, "many"])
def test_only_a_whole_number_is_a_number_of_tokens(value: object) -> None:
    assert " is wrong: " in _refused(("cache", "window_tokens"), value)["cache.window_tokens"]


@pytest.mark.parametrize("value", [1, 0, "yes", "on"])
def test_only_true_and_false_are_a_yes_and_a_no(value: object) -> None:
    path = ("options", "tensorrt", "version_compatible")
    assert " is wrong: " in _refused(path, value)[".".join(path)]


@pytest.mark.parametrize("text", ["chat_template: '\ud800'", 'chat_template: "a\\udfffb"', '"\\ud800": 1'])
def test_half_of_a_character_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not YAML") as caught:
        parse_spec(f"name: a\nsource: {{uri: /m}}\n{text}", Path("/"))
    caught.value.message.encode()


def _inner(descriptor: Descriptor) -> Iterator[tuple[str, Descriptor]]:
    """Fields that are messages of ours; one of protobuf's own is a value."""
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.file.package.startswith("sinkserve."):
            yield field.name, field.message_type


def _message() -> engine_pb2.ModelSpec:
    return engine_pb2.ModelSpec(name="a", source=engine_pb2.Source(uri="/m"))


def _parts(message: Message, path: str = "spec") -> Iterator[tuple[str, Message]]:
    yield path, message
    for name, _ in _inner(cast("Descriptor", message.DESCRIPTOR)):
        inner = getattr(message, name)
        inner.SetInParent()
        yield from _parts(inner, f"{path}.{name}")


def _whole() -> engine_pb2.ModelSpec:
    message = _message()
    message.cache.window_tokens = message.cache.chunk_tokens = message.cache.max_slots = 8
    return message


@pytest.mark.parametrize("path", [path for path, _ in _parts(_whole())])
def test_a_field_of_a_newer_protocol_is_refused_wherever_it_is(path: str) -> None:
    message = _whole()
    assert spec_from_wire(message).name == "a"
    dict(_parts(message))[path].MergeFromString(STRANGE_NUMBER)
    with pytest.raises(InvalidArgument, match="field number 2047 is of a newer protocol") as caught:
        spec_from_wire(message)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert [violation.field for violation in caught.value.violations] == [path]


def _enums(descriptor: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], EnumDescriptor]]:
    for field in descriptor.fields:
        if field.enum_type is not None:
            yield (*path, field.name), field.enum_type
    for name, inner in _inner(descriptor):
        yield from _enums(inner, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in _enums(engine_pb2.ModelSpec.DESCRIPTOR)], ids=".".join)
@pytest.mark.parametrize("number", [99, -1, 2**31 - 1])
def test_an_enum_number_that_nobody_knows_is_refused_wherever_it_is(path: tuple[str, ...], number: int) -> None:
    message: Any = _message()
    part = message
    for name in path[:-1]:
        part = getattr(part, name)
    setattr(part, path[-1], number)
    with pytest.raises(InvalidArgument, match=f"'{number}' is wrong: input should be ") as caught:
        spec_from_wire(message)
    assert ".".join(("spec", *path)) in [violation.field for violation in caught.value.violations]


def test_every_field_of_the_model_is_one_of_the_wire_and_the_other_way_round() -> None:
    def names(descriptor: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for field in descriptor.fields:
            yield (*path, field.name)
        for name, inner in _inner(descriptor):
            yield from names(inner, (*path, name))

    assert set(names(engine_pb2.ModelSpec.DESCRIPTOR)) == {*_leaves(), *_models()} - {()}
