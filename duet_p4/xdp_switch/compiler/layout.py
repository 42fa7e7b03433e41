"""Where a program's headers and metadata live while a packet is processed.

`struct scratch`, one per CPU, holds each header as it lies in the packet (network byte order), so that
extracting and emitting are plain copies and a field costs something only where it is used. Metadata
fields are integers in host byte order; those that nothing ever reads are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.names import Names
from duet_p4.xdp_switch.compiler.tracing import Tracing

_VALID_BITS = 64
_ALIGNED = "__attribute__((aligned(8)))"
MAX_ARITHMETIC = 128
"""Bits of the widest number that C can compute with; wider fields lie as bytes, as in a header."""


_ALIASES = {
    ir.FieldRef(ir.STANDARD_METADATA, "packet_length"): "s->received",
    ir.FieldRef(ir.STANDARD_METADATA, "parser_error"): "s->parser_error",
}
"""Metadata that the scratch has anyway, where the program does not write it and no egress follows."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A metadata field's place: its C lvalue and integer type width (8 to 128)."""

    lvalue: str
    storage: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of the scratch, and the C lvalue of how many of them are in use."""

    place: str
    length: str
    room: int


def storage_width(width: int) -> int:
    """Return the width of the smallest C integer that holds `width` bits, at most 128."""
    for storage in (8, 16, 32, 64, MAX_ARITHMETIC):
        if width <= storage:
            return storage
    raise ValueError(f"no C integer has {width} bits")


def c_type(storage: int) -> str:
    """Return the C type of an unsigned integer of this width."""
    return f"__u{storage}"


@dataclass(slots=True)
class Layout:
    """Names and places of everything in `struct scratch`."""

    program: ir.Program
    read: set[ir.FieldRef]
    cleared: set[ir.FieldRef] | None = None
    """The metadata that starts as zero: all of it where None, the rest is written before it is read."""
    local: set[ir.FieldRef] = field(default_factory=set)
    """The metadata that lives within one action or parser state, in variables of its C function."""
    names: Names = field(default_factory=Names)
    tracks_length: bool = True
    """Whether something reads the packet's length behind ingress, as headers come and go."""
    written: dict[str, set[str]] = field(default_factory=dict)
    """The fields of each header that the program writes, other than by extracting it."""
    more: list[str] = field(default_factory=list)
    """Members of `struct scratch` that other parts of the compiler want; they start as zero."""
    copied_bytes: int = 0
    """The size of the largest entry that packets copy."""
    traced: bool = False
    """Whether this is the instrumented variant of the program."""
    parsed: set[ir.FieldRef] | None = None
    """The metadata that the parser writes, where all other lies on the stack; None where none does."""
    tracing: Tracing = field(init=False)
    """Its hooks."""
    _slots: dict[ir.FieldRef, Slot] = field(default_factory=dict)
    _wide: dict[ir.FieldRef, Bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._find_written()
        self.tracing = Tracing(self.program, self.traced)
        self.more += self.tracing.members()
        for header in self.program.headers.values():
            if not header.metadata:
                continue
            for member in header.type.fields.values():
                reference = ir.FieldRef(header.name, member.name)
                if reference not in self.read:
                    continue
                known = member.name if header.name == "scalars" else f"{header.name}_{member.name}"
                name = self.names("metadata", known)
                if member.varbit or member.width > MAX_ARITHMETIC:
                    room = (member.width + 7) // 8
                    self._wide[reference] = Bytes(
                        f"{self.memory}m.w_{name}", f"{self.memory}m.n_{name}", room
                    )
                elif not self.tracks_length and reference in _ALIASES and not self._writes(reference):
                    self._slots[reference] = Slot(_ALIASES[reference], 32)
                elif reference in self.local:
                    self._slots[reference] = Slot(f"t_{name}", storage_width(member.width))
                else:
                    late = self.cleared is not None and reference not in self.cleared
                    stays = self.parsed is None or reference in self.parsed
                    within = self.memory if stays else "s->"
                    place = f"{within}{'late' if late else 'm'}.m_{name}"
                    self._slots[reference] = Slot(place, storage_width(member.width))

    @property
    def split(self) -> bool:
        """Whether `struct scratch` is on the stack, and points to a `struct memory` with the headers."""
        return self.parsed is not None

    @property
    def memory(self) -> str:
        """The C of what comes before a member that lies in memory."""
        return "s->mem->" if self.split else "s->"

    @property
    def offset(self) -> str:
        """The C lvalue of the parser's or deparser's cursor, where it is not known when compiling."""
        return f"{self.memory}offset"

    def slot(self, reference: ir.FieldRef) -> Slot | None:
        """Return where a metadata field is, or None where nothing reads it or it is no C integer."""
        return self._slots.get(reference)

    def _writes(self, reference: ir.FieldRef) -> bool:
        return reference.field in self.written.get(reference.header, ())

    def _find_written(self) -> None:
        for step in self.program.primitives():
            target = step.arguments[0] if step.arguments else None
            if isinstance(target, ir.FieldRef):
                self.written.setdefault(target.header, set()).add(target.field)
            elif (
                step.op != "extract" and isinstance(target, ir.Named) and target.name in self.program.headers
            ):
                kind = self.program.headers[target.name].type
                self.written.setdefault(target.name, set()).update(kind.fields)
        for checksum in self.program.checksums:
            if checksum.update:
                self.written.setdefault(checksum.target.header, set()).add(checksum.target.field)

    def variables(self, steps: Iterable[ir.Primitive]) -> list[str]:
        """Return the C declarations of the metadata that lives within these steps."""
        used = dict.fromkeys(
            part
            for step in steps
            for argument in step.arguments
            for part in ir.inside(argument)
            if isinstance(part, ir.FieldRef) and part in self.local and part in self._slots
        )
        return [f"{c_type(self._slots[part].storage)} {self._slots[part].lvalue};" for part in used]

    def stored(self, reference: ir.FieldRef) -> bool:
        """Tell whether a field has a place: metadata that nothing reads has none."""
        header = self.program.headers[reference.header]
        return not header.metadata or reference in self._slots or reference in self._wide

    def bytes_of(self, reference: ir.FieldRef) -> Bytes:
        """Return where a field of whole bytes lies: a varbit field, or one too wide for a C integer."""
        if reference in self._wide:
            return self._wide[reference]
        member = self.program.field(reference)
        if member.offset % 8 or member.width % 8:
            raise ir.unsupported(
                f"{reference.header}.{reference.field}, {member.width} bits at bit {member.offset},",
                self.program.headers[reference.header].type.source,
            )
        length = self.varbit_length(reference.header) if member.varbit else str(member.width // 8)
        return Bytes(
            f"{self.header(reference.header)} + {member.offset // 8}", length, (member.width + 7) // 8
        )

    def header(self, name: str) -> str:
        """Return the C expression for a header's bytes."""
        return f"{self.memory}h_{self.names('header', name)}"

    def varbit_length(self, name: str) -> str:
        """Return the C lvalue of the length in bytes of a header's varbit field."""
        return f"{self.memory}n_{self.names('header', name)}"

    def length(self, name: str) -> str:
        """Return the C expression for the length of a header in a packet."""
        kind = self.program.headers[name].type
        if kind.varbit is None:
            return str(kind.bytes)
        return f"({(kind.bits - kind.varbit.width) // 8} + {self.varbit_length(name)})"

    def next(self, stack: str) -> str:
        """Return the C lvalue of a stack's next index."""
        return f"{self.memory}next_{self.names('stack', stack)}"

    def _bit(self, name: str) -> tuple[str, str]:
        """Return the C lvalue of the word with a header's validity, and the bit's C name."""
        word = self.program.headers[name].index // _VALID_BITS
        return f"s->valid{word or ''}", f"VALID_{self.names('header', name)}"

    def valid(self, name: str) -> C:
        """Return the C expression that is true where a header is valid."""
        word, bit = self._bit(name)
        return c.binary("&", c.place(word, 64), c.place(bit, 64))

    def valid_in_memory(self, name: str) -> C:
        """Return the same of what lies in memory, of which the verifier takes no notes."""
        if not self.split:
            return self.valid(name)
        word, bit = self._bit(name)
        stored = f"*(volatile __u64 *)&{self.memory}{word.removeprefix('s->')}"
        return c.binary("&", c.place(stored, 64), c.place(bit, 64))

    def valid_bit(self, name: str) -> str:
        """Return the C name of a header's bit in its word of validity bits."""
        return self._bit(name)[1]

    def cells(self, name: str) -> list[tuple[int, int]]:
        """Return (offset, bytes) of the pieces that a header is best moved in.

        A word that was stored field by field cannot be loaded before the stores are done with, so that pieces
        end where fields that are written together end: every 4 bytes, or where a longer field begins or ends.
        What the program never writes is moved in the widest steps.
        """
        kind = self.program.headers[name].type
        written = self.written.get(name, set())
        ends = {kind.bytes}
        for member in kind.fields.values():
            for bit in (member.offset, member.offset + member.width):
                if bit % 32 == 0 or (member.width > 32 and bit % 8 == 0):
                    ends.add(bit // 8)
        runs: list[tuple[int, int, bool]] = []
        start = 0
        for end in sorted(ends - {0}):
            clean = not any(
                member.offset < 8 * end and member.offset + member.width > 8 * start
                for member in kind.fields.values()
                if member.name in written
            )
            if runs and clean and runs[-1][2]:
                runs[-1] = (runs[-1][0], end, True)
            else:
                runs.append((start, end, clean))
            start = end
        return [(first + at, size) for first, end, _ in runs for at, size in steps(end - first)]

    def emit(self, name: str, target: str, *, changed: bool = False) -> list[str]:
        """Return C statements that copy a header's bytes, or what of them may be `changed`, into a packet."""
        written = self.written.get(name, set())
        fields = [m for m in self.program.headers[name].type.fields.values() if m.name in written]
        return [
            f"COPY{8 * size}({target} + {at}, {self.header(name)} + {at});"
            for at, size in self.cells(name)
            if not changed or any(m.offset < 8 * (at + size) and m.offset + m.width > 8 * at for m in fields)
        ]

    def set_valid(self, name: str) -> list[str]:
        """Return C statements that make a header valid, and the rest of its union invalid."""
        word, bit = self._bit(name)
        rivals = [line for rival in self.program.headers[name].rivals for line in self.set_invalid(rival)]
        return [*rivals, f"{word} |= {bit};"]

    def set_invalid(self, name: str) -> list[str]:
        """Return the C statement that makes a header invalid."""
        word, bit = self._bit(name)
        return [f"{word} &= ~{bit};"]

    @property
    def valid_words(self) -> list[str]:
        """The C lvalues of all validity bits."""
        count = sum(1 for h in self.program.headers.values() if not h.metadata)
        return [f"s->valid{word or ''}" for word in range(max(1, -(-count // _VALID_BITS)))]

    def declarations(self) -> Iterator[str]:
        """Yield the C declarations of the validity bits and of where all that is known of a packet lies."""
        headers = [h for h in self.program.headers.values() if not h.metadata]
        for header in headers:
            yield f"#define {self._bit(header.name)[1]} (1ull << {header.index % _VALID_BITS})"
        yield ""
        words = [
            f"    __u64 {word.removeprefix('s->')}; /* one bit per header */" for word in self.valid_words
        ]
        of_packet = [
            *words,
            "    __u32 parsed; /* bytes the parser took */",
            "    __u32 received; /* length of the packet as it came in */",
            "    __u32 length; /* the same, with headers added and removed since */",
            "    __u32 truncated; /* bytes to keep at most */",
            "    __u32 parser_error;",
            "    __u32 egress_port;",
        ]
        offset = (
            "    __u32 offset; /* of the parser's or deparser's cursor, where not known when compiling */"
        )
        stored = [offset, *self._lengths(headers)]
        if self.split:
            yield "#define SPLIT"
            yield "struct memory {"
            yield "    /* As the parser leaves them; what the verifier knows of one path ends here. */"
            yield from words
            yield "    __u32 parsed;"
            yield "    __u32 parser_error;"
            yield from stored
            yield from self._metadata(self.memory, wide=True)
            yield from self._stored_headers(headers)
            yield "};"
            yield ""
            yield "struct scratch {"
            yield "    struct memory *mem;"
            yield from of_packet
            yield "    __u64 entered; /* the headers that the parser left, 0 where they are not known */"
            yield from self._metadata("s->", self.more)
            yield "};"
            return
        yield "struct scratch {"
        yield from of_packet
        yield from stored
        yield from self._metadata("s->", self.more, wide=True)
        yield from self._stored_headers(headers)
        yield "};"

    def _lengths(self, headers: Sequence[ir.Header]) -> Iterator[str]:
        for stack in (*self.program.stacks, *self.program.union_stacks):
            yield f"    __u32 {self.next(stack).removeprefix(self.memory)};"
        for header in headers:
            if header.type.varbit is not None:
                yield f"    __u32 {self.varbit_length(header.name).removeprefix(self.memory)};"

    def _metadata(self, within: str, more: Iterable[str] = (), *, wide: bool = False) -> Iterator[str]:
        """Yield the structs of the metadata that lies `within` scratch or memory."""
        yield "    struct {"
        kept = list(self._wide.values()) if wide else []
        for one in kept:
            room = (one.room + 7) // 8 * 8
            yield f"        __u8 {one.place.removeprefix(within + 'm.')}[{room}] {_ALIGNED};"
        by_size: dict[int, list[str]] = {}
        late: dict[int, list[str]] = {}
        for slot in self._slots.values():
            if slot.lvalue.startswith(within + "m."):
                by_size.setdefault(slot.storage, []).append(slot.lvalue.removeprefix(within + "m."))
            elif slot.lvalue.startswith(within + "late."):
                late.setdefault(slot.storage, []).append(slot.lvalue.removeprefix(within + "late."))
        for one in kept:
            by_size.setdefault(32, []).append(one.length.removeprefix(within + "m."))
        for size in sorted(by_size, reverse=True):
            for name in by_size[size]:
                yield f"        {c_type(size)} {name};"
        for line in more:
            yield f"        {line}"
        if self.cleared is None:
            yield "        __u64 end;"
        yield "    } m __attribute__((aligned(8)));"
        if late:
            yield "    struct {"
            for size in sorted(late, reverse=True):
                for name in late[size]:
                    yield f"        {c_type(size)} {name};"
            yield "    } late __attribute__((aligned(8))); /* written before it is read */"

    def _stored_headers(self, headers: Sequence[ir.Header]) -> Iterator[str]:
        for header in headers:
            room = (header.type.bytes + 7) // 8 * 8
            fields = " ".join(f"{m.offset // 8}:{m.name}" for m in header.type.fields.values())
            name = self.header(header.name).removeprefix(self.memory)
            yield f"    __u8 {name}[{room}] {_ALIGNED}; /* {fields} */"
        yield "    __u64 end; /* room to load a whole word at the last field */"
        if self.copied_bytes:
            yield f"    __u64 found[{(self.copied_bytes + 7) // 8}]; /* the entry that a table has found */"

    def load_bits(self, header: str, first: int, width: int) -> C:
        """Return C for `width` (at most 64) bits of a header from bit `first` on, in host order."""
        return load_bits(self.header(header), first, width)

    def slice(self, reference: ir.FieldRef, low: int, width: int) -> C:
        """Return C for `width` (at most 64) bits of a field above its lowest `low`, without all of it."""
        member = self.program.field(reference)
        wide = self._wide.get(reference)
        if wide is not None:
            return load_bits(wide.place, 8 * wide.room - low - width, width)
        return self.load_bits(reference.header, member.offset + member.width - low - width, width)

    def load(self, reference: ir.FieldRef) -> C:
        """Return C for the value of a field, as an unsigned integer of its width."""
        if reference.field == ir.VALID:
            return c.compare("!=", self.valid(reference.header), c.number(0))
        header = self.program.headers[reference.header]
        member = header.type.fields[reference.field]
        if header.metadata and reference in self._slots:
            return c.place(self._slots[reference].lvalue, self._slots[reference].storage)
        if member.width <= 64:
            return self.load_bits(header.name, member.offset, member.width)
        if member.width > MAX_ARITHMETIC or member.varbit:
            raise ir.unsupported(
                f"arithmetic on {reference.header}.{reference.field} of {member.width} bits, more than 128,",
                header.type.source,
            )
        high = self.load_bits(header.name, member.offset, member.width - 64)
        low = self.load_bits(header.name, member.offset + member.width - 64, 64)
        return c.joined(high, low)

    def store(self, reference: ir.FieldRef, code: C) -> list[str]:
        """Return C statements that set a field to `code`, which fits the field's width."""
        header = self.program.headers[reference.header]
        member = header.type.fields[reference.field]
        if reference in self._slots:
            return [f"{self._slots[reference].lvalue} = {code.text};"]
        if header.metadata and reference not in self._wide:
            return []
        if member.width > MAX_ARITHMETIC:
            raise ir.unsupported(
                f"arithmetic on {reference.header}.{reference.field} of {member.width} bits, more than 128,",
                header.type.source,
            )
        if member.offset % 8 or member.width % 8:
            return self._store_bits(header.name, member, code)
        sizes = [8 * size for _, size in steps(member.width // 8)]
        # The macros write their argument twice, which clang does not like of what branches.
        if len(sizes) == 1 and " ? " not in code.text:
            return [f"STORE{sizes[0]}({self.header(reference.header)} + {member.offset // 8}, {code.text});"]
        lines = [f"{{ {c_type(storage_width(max(member.width, 64)))} value = {code.text};"]
        at, left = member.offset // 8, member.width // 8
        while left:
            size = next(n for n in (8, 4, 2, 1) if n <= left)
            left -= size
            part = f"value >> {8 * left}" if left else "value"
            lines.append(f"  STORE{8 * size}({self.header(header.name)} + {at}, {part});")
            at += size
        return [*lines[:-1], lines[-1] + " }"]

    def _store_bits(self, header: str, member: ir.Field, code: C) -> list[str]:
        start, shift_in = member.offset // 8, member.offset % 8
        span = shift_in + member.width
        if span > 64:
            return self._store_bytes(header, member, code)
        size = next(w for w in (8, 16, 32, 64) if span <= w)
        if start + size // 8 > (self.program.headers[header].type.bytes + 7) // 8 * 8:
            # The container would reach into the next header: write byte by byte instead.
            return self._store_bytes(header, member, code)
        place = f"{self.header(header)} + {start}"
        mask = ((1 << member.width) - 1) << size - span
        keep = c.number(((1 << size) - 1) & ~mask)
        kept = c.binary("&", c.place(f"LOAD{size}({place})", size), keep)
        whole = c.binary("|", kept, c.binary("<<", code, c.number(size - span), 64))
        return [f"STORE{size}({place}, {whole.text});"]

    def _store_bytes(self, header: str, member: ir.Field, code: C) -> list[str]:
        lines = [f"{{ {c_type(storage_width(max(member.width, 64)))} value = {code.text};"]
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
        kind = self.program.headers[target].type
        lines = [
            f"COPY{8 * size}({self.header(target)} + {at}, {self.header(source)} + {at});"
            for at, size in self.cells(target)
        ]
        if kind.varbit is not None:
            lines.append(f"{self.varbit_length(target)} = {self.varbit_length(source)};")
        return lines


def load_bits(base: str, first: int, width: int) -> C:
    """Return C for `width` (at most 64) bits at `base` from bit `first` on, in host order."""
    start, shift_in = first // 8, first % 8
    span = shift_in + width
    if span > 64:
        high = load_bits(base, first, 64 - shift_in)
        rest = width - (64 - shift_in)
        low = load_bits(base, first + 64 - shift_in, rest)
        return c.binary("|", c.binary("<<", high, c.number(rest), 64), low)
    size = next(w for w in (8, 16, 32, 64) if span <= w)
    code = c.binary(">>", c.place(f"LOAD{size}({base} + {start})", size), c.number(size - span))
    return c.masked(code, width) if shift_in else code


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
