"""Where a program's headers and metadata live while a packet is processed.

`struct scratch`, one per CPU, holds each header as it lies in the packet (network byte order), so that
extracting and emitting are plain copies and a field costs something only where it is used. Metadata
fields are integers in host byte order; those that nothing ever reads are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from duet_p4.xdp_switch.compiler import ir

_VALID_BITS = 64


@dataclass(frozen=True, slots=True)
class Slot:
    """A metadata field's place: its C lvalue and integer type width (8 to 128)."""

    lvalue: str
    storage: int


def identifier(name: str) -> str:
    """Return a C identifier that reads like a P4 name."""
    return re.sub(r"\W", "_", name)


def storage_width(width: int) -> int:
    """Return the width of the smallest C integer that holds `width` bits."""
    return next(w for w in (8, 16, 32, 64, 128) if width <= w)


def c_type(storage: int) -> str:
    """Return the C type of an unsigned integer of this width."""
    return f"__u{storage}"


@dataclass(slots=True)
class Layout:
    """Names and places of everything in `struct scratch`."""

    program: ir.Program
    read: set[ir.FieldRef]
    _slots: dict[ir.FieldRef, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = [h for h in self.program.headers.values() if not h.metadata]
        if len(plain) > _VALID_BITS:
            raise ir.unsupported(f"more than {_VALID_BITS} headers (there are {len(plain)})", ir.Source())
        taken: set[str] = set()
        for header in self.program.headers.values():
            if not header.metadata:
                continue
            for member in header.type.fields.values():
                reference = ir.FieldRef(header.name, member.name)
                if reference not in self.read:
                    continue
                if member.width > 128:
                    raise ir.unsupported(
                        f"metadata {header.name}.{member.name} of {member.width} bits, more than 128,",
                        header.type.source,
                    )
                name = identifier(member.name if header.name == "scalars" else f"{header.name}_{member.name}")
                while name in taken:
                    name += "_"
                taken.add(name)
                self._slots[reference] = Slot(f"s->m.{name}", storage_width(member.width))

    def slot(self, reference: ir.FieldRef) -> Slot | None:
        """Return where a metadata field is, or None where nothing reads it."""
        return self._slots.get(reference)

    @staticmethod
    def header(name: str) -> str:
        """Return the C expression for a header's bytes."""
        return f"s->{identifier('h_' + name)}"

    def valid(self, name: str) -> str:
        """Return the C expression that is true where a header is valid."""
        return f"(s->valid & VALID_{identifier(name)})"

    def declarations(self) -> Iterator[str]:
        """Yield the C declarations of the validity bits and `struct scratch`."""
        for header in self.program.headers.values():
            if not header.metadata:
                yield f"#define VALID_{identifier(header.name)} (1ull << {header.index})"
        yield ""
        yield "struct scratch {"
        yield "    __u64 valid; /* one bit per header */"
        yield "    __u32 offset; /* of the parser's or deparser's cursor, where not known when compiling */"
        yield "    __u32 parsed; /* bytes the parser took */"
        yield "    __u32 received; /* length of the packet as it came in */"
        yield "    __u32 length; /* the same, with headers added and removed since */"
        yield "    __u32 truncated; /* bytes to keep at most */"
        yield "    __u32 parser_error;"
        yield "    __u32 egress_port;"
        for stack in self.program.stacks.values():
            yield f"    __u32 {identifier('next_' + stack.name)};"
        yield "    struct {"
        by_size: dict[int, list[str]] = {}
        for slot in self._slots.values():
            by_size.setdefault(slot.storage, []).append(slot.lvalue.removeprefix("s->m."))
        for size in sorted(by_size, reverse=True):
            for name in by_size[size]:
                yield f"        {c_type(size)} {name};"
        yield "        __u64 end;"
        yield "    } m __attribute__((aligned(8)));"
        for header in self.program.headers.values():
            if not header.metadata:
                room = (header.type.bytes + 7) // 8 * 8
                yield f"    __u8 {identifier('h_' + header.name)}[{room}] __attribute__((aligned(8)));"
        yield "    __u64 end; /* room to load a whole word at the last field */"
        yield "};"

    def load_bits(self, header: str, first: int, width: int) -> str:
        """Return C for `width` (at most 64) bits of a header from bit `first` on, in host order."""
        base = self.header(header)
        start, shift_in = first // 8, first % 8
        span = shift_in + width
        if span > 64:
            high = self.load_bits(header, first, 64 - shift_in)
            rest = width - (64 - shift_in)
            low = self.load_bits(header, first + 64 - shift_in, rest)
            return f"({high} << {rest} | {low})"
        size = next(w for w in (8, 16, 32, 64) if span <= w)
        code = f"LOAD{size}({base} + {start})"
        if size - span:
            code = f"({code} >> {size - span})"
        if shift_in:
            code = f"({code} & {hex((1 << width) - 1)})"
        return f"(__u64){code}"

    def load(self, reference: ir.FieldRef) -> str:
        """Return C for the value of a field, as an unsigned integer of its width."""
        if reference.field == ir.VALID:
            return f"(__u64)({self.valid(reference.header)} != 0)"
        header = self.program.headers[reference.header]
        if header.metadata:
            slot = self._slots[reference]
            return slot.lvalue
        member = header.type.fields[reference.field]
        if member.width <= 64:
            return self.load_bits(header.name, member.offset, member.width)
        if member.width > 128:
            raise ir.unsupported(
                f"arithmetic on {reference.header}.{reference.field} of {member.width} bits, more than 128,",
                header.type.source,
            )
        high = self.load_bits(header.name, member.offset, member.width - 64)
        low = self.load_bits(header.name, member.offset + member.width - 64, 64)
        return f"((__u128)({high}) << 64 | {low})"

    def store(self, reference: ir.FieldRef, code: str) -> list[str]:
        """Return C statements that set a field to `code`, which fits the field's width."""
        header = self.program.headers[reference.header]
        member = header.type.fields[reference.field]
        if header.metadata:
            slot = self._slots.get(reference)
            return [] if slot is None else [f"{slot.lvalue} = {code};"]
        if member.offset % 8 or member.width % 8:
            return self._store_bits(header.name, member, code)
        lines = [f"{{ {c_type(storage_width(max(member.width, 64)))} value = {code};"]
        at, left = member.offset // 8, member.width // 8
        while left:
            size = next(n for n in (8, 4, 2, 1) if n <= left)
            left -= size
            part = f"value >> {8 * left}" if left else "value"
            lines.append(f"  STORE{8 * size}({self.header(header.name)} + {at}, {part});")
            at += size
        return [*lines[:-1], lines[-1] + " }"]

    def _store_bits(self, header: str, member: ir.Field, code: str) -> list[str]:
        start, shift_in = member.offset // 8, member.offset % 8
        span = shift_in + member.width
        if span > 64:
            raise ir.unsupported(
                f"writing {header}.{member.name}, which spans more than 8 bytes,",
                self.program.headers[header].type.source,
            )
        size = next(w for w in (8, 16, 32, 64) if span <= w)
        if start + size // 8 > (self.program.headers[header].type.bytes + 7) // 8 * 8:
            # The container would reach into the next header: write byte by byte instead.
            return self._store_bytes(header, member, code)
        place = f"{self.header(header)} + {start}"
        mask = ((1 << member.width) - 1) << size - span
        shifted = f"(__u64)({code}) << {size - span}" if size - span else f"({code})"
        keep = ((1 << size) - 1) & ~mask
        return [f"STORE{size}({place}, (LOAD{size}({place}) & {hex(keep)}u) | ({shifted}));"]

    def _store_bytes(self, header: str, member: ir.Field, code: str) -> list[str]:
        lines = [f"{{ __u64 value = {code};"]
        first, last = member.offset, member.offset + member.width
        for byte in range(first // 8, (last + 7) // 8):
            begin, end = max(first, 8 * byte), min(last, 8 * byte + 8)
            mask = (1 << end - begin) - 1
            place = f"{self.header(header)} + {byte}"
            part = f"((value >> {last - end}) & {hex(mask)}) << {8 * byte + 8 - end}"
            keep = 0xFF & ~(mask << 8 * byte + 8 - end)
            lines.append(f"  STORE8({place}, (LOAD8({place}) & {hex(keep)}) | {part});")
        return [*lines, "}"]

    def copy(self, target: str, source: str) -> list[str]:
        """Return C statements that copy a header's bytes between scratch headers."""
        size = self.program.headers[target].type.bytes
        return copy_bytes(self.header(target), self.header(source), size)


def copy_bytes(target: str, source: str, size: int) -> list[str]:
    """Return C statements that copy `size` bytes in the widest steps."""
    return [f"COPY{8 * step}({target} + {at}, {source} + {at});" for at, step in steps(size)]


def steps(size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, width in bytes) that cover `size` bytes in the widest steps."""
    at = 0
    while at < size:
        step = next(n for n in (8, 4, 2, 1) if n <= size - at)
        yield at, step
        at += step


def indent(lines: Iterable[str], by: int = 1) -> Iterator[str]:
    """Yield the lines, indented."""
    for line in lines:
        yield "    " * by + line if line else line
