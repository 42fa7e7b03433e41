"""Match fields, parameters and header fields: what they may hold, on the wire and in the data plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import FieldValue
from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, invalid_argument
from duet_p4.xdp_switch.p4runtime.translation import Translation


class MatchKind(IntEnum):
    """How a table matches a field; the numbers are P4Info's."""

    EXACT = p4i.MatchField.EXACT
    LPM = p4i.MatchField.LPM
    TERNARY = p4i.MatchField.TERNARY
    RANGE = p4i.MatchField.RANGE
    OPTIONAL = p4i.MatchField.OPTIONAL


ORDERED_KINDS = (MatchKind.TERNARY, MatchKind.RANGE, MatchKind.OPTIONAL)
"""Kinds that let two entries match one packet, so that entries need a priority."""


@dataclass(frozen=True, slots=True)
class Field:
    """A match field, an action parameter, or a field of a packet-in or packet-out header."""

    id: int
    name: str
    width: int
    translation: Translation | None = None

    def decode(self, data: bytes, what: str) -> int:
        """Return the data plane's number for a value; raises OUT_OF_RANGE, naming `what`."""
        if self.translation is not None:
            return self.translation.decode(data, what)
        return values.decode(data, self.width, what)

    def encode(self, number: int) -> bytes:
        """Return the bytes of a value, the shortest there are."""
        return self.translation.encode(number) if self.translation is not None else values.encode(number)


@dataclass(frozen=True, slots=True)
class MatchField(Field):
    """One element of a table's key."""

    kind: MatchKind = MatchKind.EXACT

    @property
    def numbers(self) -> int:
        """How many numbers a value of it is."""
        return 1 if self.kind in (MatchKind.EXACT, MatchKind.OPTIONAL) else 2

    @property
    def wildcard(self) -> FieldValue:
        """The value that matches everything; meaningless for an exact field."""
        if self.kind is MatchKind.RANGE:
            return (0, (1 << self.width) - 1)
        return None if self.kind in (MatchKind.EXACT, MatchKind.OPTIONAL) else (0, 0)


def match_decoder(table: str, spec: MatchField) -> Callable[[p4r.FieldMatch], FieldValue]:
    """Return the function that checks and decodes this field; one closure per field, for speed."""
    width = spec.width
    full = (1 << width) - 1
    what = f"{table}.{spec.name}"
    from_bytes = int.from_bytes

    def translated(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("exact"):
            raise _wrong_kind(item, what, "exact")
        return spec.decode(item.exact.value, what)

    def exact(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("exact"):
            raise _wrong_kind(item, what, "exact")
        data = item.exact.value
        value = from_bytes(data, "big")
        if value > full or not data:
            raise values.range_error(data, width, what)
        return value

    def optional(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("optional"):
            raise _wrong_kind(item, what, "optional")
        return spec.decode(item.optional.value, what)

    def lpm(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("lpm"):
            raise _wrong_kind(item, what, "lpm")
        value, length = values.decode(item.lpm.value, width, what), item.lpm.prefix_len
        if length == 0:
            raise invalid_argument(f"{what}: leave the field out instead of a prefix length of 0")
        if not 0 < length <= width:
            raise invalid_argument(f"{what}: prefix length {length} is not in 1..{width}")
        if value & (full >> length):
            raise invalid_argument(f"{what}: 0x{value:x} has bits set below its /{length}")
        return value, length

    def ternary(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("ternary"):
            raise _wrong_kind(item, what, "ternary")
        value = values.decode(item.ternary.value, width, what)
        mask = values.decode(item.ternary.mask, width, f"mask of {what}")
        if mask == 0:
            raise invalid_argument(f"{what}: leave the field out instead of a mask of 0")
        if value & ~mask:
            raise invalid_argument(f"{what}: 0x{value:x} has bits set outside its mask 0x{mask:x}")
        return value, mask

    def range_(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("range"):
            raise _wrong_kind(item, what, "range")
        low = values.decode(item.range.low, width, f"low end of {what}")
        high = values.decode(item.range.high, width, f"high end of {what}")
        if low > high:
            raise invalid_argument(f"{what}: the range 0x{low:x}..0x{high:x} is empty")
        if (low, high) == (0, full):
            raise invalid_argument(f"{what}: leave the field out instead of the full range")
        return low, high

    return {
        MatchKind.EXACT: exact if spec.translation is None else translated,
        MatchKind.LPM: lpm,
        MatchKind.TERNARY: ternary,
        MatchKind.RANGE: range_,
        MatchKind.OPTIONAL: optional,
    }[spec.kind]


WORD = 64
Column: TypeAlias = np.ndarray[tuple[int], np.dtype[Any]]
"""Numbers: words, or Python's where they may have more than 64 bits."""
Mask: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

PARTS = {
    "exact": ("value",),
    "optional": ("value",),
    "lpm": ("value", "prefix_len"),
    "ternary": ("value", "mask"),
    "range": ("low", "high"),
}
"""The numbers of a FieldMatch by its kind, in the order that `fits` takes them."""


def within(column: Column, width: int) -> Mask:
    """Return which numbers have at most `width` bits."""
    good: Mask = column <= (1 << width) - 1
    return good


def fits(spec: MatchField, numbers: Sequence[Column]) -> Mask:
    """Return for which numbers, column by column, `match_decoder` takes a field."""
    full = (1 << spec.width) - 1
    good = within(numbers[0], spec.width)
    if spec.kind is MatchKind.LPM:
        value, length = numbers
        if spec.width > WORD:
            length = length.astype(np.object_)
        good &= (length > 0) & (length <= spec.width) & (value & (full >> length) == 0)
    elif spec.kind is MatchKind.TERNARY:
        value, mask = numbers
        good &= within(mask, spec.width) & (mask != 0) & (value & ~mask == 0)
    elif spec.kind is MatchKind.RANGE:
        low, high = numbers
        good &= within(high, spec.width) & (low <= high) & ~((low == 0) & (high == full))
    return good


def _wrong_kind(item: p4r.FieldMatch, what: str, expected: str) -> P4RuntimeError:
    given = item.WhichOneof("field_match_type") or "nothing"
    return invalid_argument(f"{what} is matched {expected}, {given} was given")


def encode_match(spec: MatchField, value: FieldValue, item: p4r.FieldMatch) -> None:
    """Write a value that is not the wildcard into a message that has its field's id."""
    if isinstance(value, tuple):
        if spec.kind is MatchKind.LPM:
            item.lpm.value, item.lpm.prefix_len = values.encode(value[0]), value[1]
        elif spec.kind is MatchKind.TERNARY:
            item.ternary.value, item.ternary.mask = values.encode(value[0]), values.encode(value[1])
        else:
            item.range.low, item.range.high = values.encode(value[0]), values.encode(value[1])
    elif value is not None:
        if spec.kind is MatchKind.EXACT:
            item.exact.value = spec.encode(value)
        else:
            item.optional.value = spec.encode(value)
