"""C structs that Python fills: one description for the C declaration and for the bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from duet_p4.xdp_switch.compiler.layout import c_type, storage_width

_FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Member:
    """A C member: the index of the value it holds a part of, and the bits `shift` to shift + width."""

    name: str
    source: int
    shift: int
    storage: int


class Struct:
    """A C struct of unsigned integers, the widest first, padded with zeros to `align` bytes or more."""

    def __init__(self, fields: Sequence[tuple[str, int]], align: int) -> None:
        members: list[Member] = []
        for number, (name, width) in enumerate(fields):
            if width > 64:
                members.append(Member(f"{name}_high", number, 64, storage_width(width - 64)))
                members.append(Member(f"{name}_low", number, 0, 64))
            else:
                members.append(Member(name, number, 0, storage_width(width)))
        self.members = sorted(members, key=lambda m: -m.storage)
        self._split = {m.source for m in members if m.shift}
        align = max(align, *(m.storage // 8 for m in members)) if members else align
        used = sum(m.storage // 8 for m in self.members)
        self.size = (used + align - 1) // align * align or align
        self._padding = self.size - used
        self.format = "".join(_FORMATS[m.storage] for m in self.members) + f"{self._padding}x"
        """The members and the padding, as the module `struct` has them."""
        self._pack = struct.Struct("=" + self.format).pack

    def declarations(self) -> list[str]:
        """Return the C declarations of the members."""
        lines = [f"{c_type(m.storage)} {m.name};" for m in self.members]
        return [*lines, *([f"__u8 padding[{self._padding}];"] if self._padding else [])]

    def pack(self, values: Sequence[int]) -> bytes:
        """Return the bytes of the struct with these values, one per field."""
        return self.pack_all([(value,) for value in values])

    def pack_all(self, columns: Sequence[Sequence[int]]) -> bytes:
        """Return the bytes of structs, one after another; each column has all their values of one field."""
        return b"".join(map(self._pack, *self.parts(columns)))

    def parts(self, columns: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Return the same by members: fields of more than 64 bits are two."""
        return [
            [value >> m.shift & _WORD for value in columns[m.source]]
            if m.source in self._split
            else columns[m.source]
            for m in self.members
        ]

    def value(self, number: int, prefix: str) -> str:
        """Return the C expression for a field of the struct at `prefix`."""
        parts = [m for m in self.members if m.source == number]
        if len(parts) == 1:
            return f"{prefix}{parts[0].name}"
        high, low = sorted(parts, key=lambda m: -m.shift)
        return f"((__u128){prefix}{high.name} << 64 | {prefix}{low.name})"
