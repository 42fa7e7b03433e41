"""Where things are in a serialized message (https://protobuf.dev/programming-guides/encoding).

For messages that protobuf itself has serialized: nothing is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finsy.proto import p4r

UPDATE = p4r.Update.DESCRIPTOR
_UPDATES = p4r.WriteRequest.DESCRIPTOR.fields_by_name["updates"].number << 3 | 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Path = tuple[str | int, ...]
"""Names of fields from the outside in; behind the name of one that is a message, which of them it is."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a field's value."""

    start: int
    stop: int
    is_varint: bool


def pieces(data: bytes) -> tuple[list[int], list[int]]:
    """Return where the updates of a WriteRequest start and stop."""
    starts, stops = [], []
    at, end = 0, len(data)
    while at < end:
        if data[at] != _UPDATES:
            tag, at = _varint(data, at)
            _, at = _value(data, at, tag & 7)
            continue
        length = data[at + 1]
        at += 2
        if length > 0x7F:
            length, at = _varint(data, at - 1)
        starts.append(at)
        at += length
        stops.append(at)
    return starts, stops


def spans(data: bytes, message: Any) -> dict[Path, Span]:
    """Return where in a message, whose descriptor is given, values of fields that are no messages are."""
    found: dict[Path, Span] = {}
    _walk(data, 0, len(data), message, (), found)
    return found


def _walk(data: bytes, at: int, end: int, message: Any, path: Path, found: dict[Path, Span]) -> None:
    counts: dict[str, int] = {}
    while at < end:
        tag, at = _varint(data, at)
        start, stop = _value(data, at, tag & 7)
        field = message.fields_by_number.get(tag >> 3)
        if field is not None and field.message_type is not None:
            number = counts.get(field.name, 0)
            counts[field.name] = number + 1
            _walk(data, start, stop, field.message_type, (*path, field.name, number), found)
        elif field is not None:
            found[*path, field.name] = Span(start, stop, tag & 7 == _VARINT)
        at = stop


def _value(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Return where a value of a wire type starts and stops."""
    if kind == _VARINT:
        return at, _varint(data, at)[1]
    if kind == _BYTES:
        length, at = _varint(data, at)
        return at, at + length
    return at, at + (8 if kind == _FIXED64 else 4)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it stops."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
