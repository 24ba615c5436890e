"""Finds the field of a message that is not UTF-8: protobuf's own error does not name it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def field_not_utf8(descriptor: Descriptor, data: bytes) -> str | None:
    """Dotted path of the first string field of `data` that is not UTF-8; None if that is not what is wrong.

    Source: the wire format of protobuf (protobuf.dev/programming-guides/encoding).
    """
    try:
        return next(_bad_fields(descriptor, data), None)
    except (IndexError, ValueError):
        return None


def _bad_fields(descriptor: Descriptor, data: bytes) -> Iterator[str]:
    for number, value in _length_delimited(data):
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
            yield from (f"{field.name}.{path}" for path in _bad_fields(field.message_type, value))
        elif field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(value):
            yield field.name


def _length_delimited(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and payload of each length-delimited field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if (wire_type := tag & 7) == _BYTES:
            size, at = _varint(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        elif wire_type == _VARINT:
            _, at = _varint(data, at)
        else:
            at += _FIXED_SIZES[wire_type] if wire_type in _FIXED_SIZES else _refuse(wire_type)


def _refuse(wire_type: int) -> int:
    raise ValueError(f"wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
