"""The protos as Markdown: a page a package, with every service, message and enum and what its comment says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = ".sinkserve."
_SERVICE, _MESSAGE, _ENUM = 6, 4, 5  # numbers of FileDescriptorProto's fields, which make the paths of comments
_METHOD = 2  # of ServiceDescriptorProto
_FIELD, _NESTED, _NESTED_ENUM = 2, 3, 4  # of DescriptorProto
_VALUE = 2  # of EnumDescriptorProto


def proto_pages() -> dict[str, str]:
    """Markdown by package, such as `engine.v1`; raises RuntimeError if protoc refuses the protos."""
    pages: dict[str, list[str]] = {}
    for file in _descriptors().file:
        package = file.package.removeprefix(_PREFIX[1:])
        lines = pages.setdefault(package, [f"# {file.package}", ""])
        lines += _FilePage(file).lines()
    return {package: "\n".join(lines) + "\n" for package, lines in pages.items()}


def page_of(proto: Path) -> str:
    """Package whose page has a proto, such as `engine.v1` for protos/sinkserve/engine/v1/engine.proto."""
    return ".".join(proto.parent.parts[-2:])


def _descriptors() -> FileDescriptorSet:
    from grpc_tools import protoc  # noqa: PLC0415 - only where pages are made

    protos = ROOT / "protos"
    sources = sorted(str(path) for path in (protos / "sinkserve").rglob("*.proto"))
    well_known = Path(str(protoc.__file__)).parent / "_proto"
    includes = [f"-I{protos}", f"-I{protos / 'third_party'}", f"-I{well_known}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        arguments = [*includes, "--include_source_info", f"--descriptor_set_out={out}", *sources]
        if protoc.main(["protoc", *arguments]) != 0:
            raise RuntimeError("protoc refused the protos; see its message above")
        return FileDescriptorSet.FromString(out.read_bytes())


class _FilePage:
    """What a page says of one file. Comments are found by path, as descriptor.proto numbers its parts."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        for index, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICE, index))
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGE, index), "")
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (_ENUM, index), "")

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield from _heading(2, service.name, f"{self._file.package}.{service.name}")
        yield from self._prose(path)
        for index, method in enumerate(service.method):
            yield from _heading(3, method.name, f"{self._file.package}.{service.name}.{method.name}")
            yield from (_signature(method), "")
            yield from self._prose((*path, _METHOD, index))

    def _message(self, message: DescriptorProto, path: tuple[int, ...], outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = f"{outer}{message.name}"
        yield from _heading(2, name, f"{self._file.package}.{name}")
        yield from self._prose(path)
        if message.field:
            yield from ("| field | type | what it says |", "| --- | --- | --- |")
        for index, field in enumerate(message.field):
            kind = _oneof(message, field) + _type(message, field)
            yield f"| `{field.name}` | {kind} | {self._cell((*path, _FIELD, index))} |"
        yield ""
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*path, _NESTED, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, _NESTED_ENUM, index), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, path: tuple[int, ...], outer: str) -> Iterator[str]:
        name = f"{outer}{enum.name}"
        yield from _heading(2, name, f"{self._file.package}.{name}")
        yield from self._prose(path)
        yield from ("| value | what it says |", "| --- | --- |")
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` | {self._cell((*path, _VALUE, index))} |"
        yield ""

    def _prose(self, path: tuple[int, ...]) -> Iterator[str]:
        yield from self._comment(path)
        yield ""

    def _cell(self, path: tuple[int, ...]) -> str:
        return " ".join(line or "<br><br>" for line in self._comment(path)).replace("|", "\\|")

    def _comment(self, path: tuple[int, ...]) -> Sequence[str]:
        lines = [line.strip() for line in self._comments.get(path, "").strip().splitlines()]
        while lines and (not lines[-1] or lines[-1].startswith("buf:lint")):
            lines.pop()
        return [line for line in lines if not line.startswith("buf:lint")]


def _heading(level: int, title: str, anchor: str) -> Iterator[str]:
    yield from ("", f"{'#' * level} {title} {{ #{anchor} }}", "")


def _signature(method: MethodDescriptorProto) -> str:
    request = ("stream of " if method.client_streaming else "") + _link(method.input_type)
    response = ("stream of " if method.server_streaming else "") + _link(method.output_type)
    return f"{request} → {response}"


def _oneof(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if field.proto3_optional:
        return "optional "
    return f"one of `{message.oneof_decl[field.oneof_index].name}`: " if field.HasField("oneof_index") else ""


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entry = next((nested for nested in message.nested_type if field.type_name.endswith(f".{nested.name}")), None)
    if entry is not None and entry.options.map_entry:
        key, value = entry.field
        return f"map of {_type(entry, key)} to {_type(entry, value)}"
    words = _link(field.type_name) if field.type_name else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    return f"repeated {words}" if field.label == FieldDescriptorProto.LABEL_REPEATED else words


def _link(type_name: str) -> str:
    """A type's name, linked where it is ours; `type_name` is written as .sinkserve.engine.v1.ModelSpec."""
    if not type_name.startswith(_PREFIX):
        return f"`{type_name[1:]}`"
    group, version, name = type_name.removeprefix(_PREFIX).split(".", 2)
    return f"[{name}]({group}.{version}.md#{type_name[1:]})"
