"""Hashes and checksums in C.

BMv2 concatenates the inputs, leaves out the fields of headers that are not valid, fills the last byte
with zero bits, and hashes the bytes. So one calculation may see inputs of several lengths: the C tests
the validity of each header among the inputs and has straight code for each combination.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from zlib import crc32

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.expressions import Expressions
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, Layout, Slot, c_type, indent

_WIDTHS = {"crc32": 32, "crc16": 16, "csum16": 16, "xor16": 16, "identity": 64}
_MAX_HEADERS = 4
_CRC_ROWS = 16
"""Rows of the table in crc32.h: bytes of which it has what they are to a CRC."""
_STREAM_STARTS = {"crc32": "0xffffffff"}
_STREAM_ENDS = {
    "crc32": "~(__u32)stream.value",
    "crc16": "stream.value",
    "csum16": "csum16_fold(stream.value)",
    "xor16": "stream.value",
    "identity": "stream.value",
}


class Calculations:
    """Compiles the calculations of a program, each into a C function of its own."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._program = layout.program
        self._all = dict(self._program.calculations)
        for profile in self._program.profiles().values():
            if profile.algorithm is not None:
                pieces = tuple(ir.Piece(e, self._expression_width(e, profile.source)) for e in profile.inputs)
                name = self.selector(profile)
                self._all[name] = ir.Calculation(name, profile.algorithm, pieces, profile.source)

    @property
    def streams(self) -> bool:
        """Whether a calculation takes inputs of lengths known only at run time."""
        return any(self._streamed(calculation) for calculation in self._all.values())

    @staticmethod
    def selector(profile: ir.Profile) -> str:
        """Return the name of the calculation that picks a member of a group."""
        return f"selector_{profile.name}"

    def width(self, name: str) -> int:
        """Return the width of a calculation's result; raises UnsupportedError for an unknown algorithm."""
        calculation = self._all[name]
        if calculation.algorithm not in _WIDTHS:
            raise ir.unsupported(f"hash algorithm {calculation.algorithm}", calculation.source)
        return _WIDTHS[calculation.algorithm]

    def call(self, name: str) -> C:
        """Return the C expression for a calculation's result."""
        calculation = self._all[name]
        context = "ctx, " if _over_payload(calculation) else ""
        local = "".join(f", {slot.lvalue}" for slot in self._local(calculation))
        called = f"calculate_{self._layout.names('calculation', name)}({context}s{local})"
        return c.place(called, self.width(name))

    def _local(self, calculation: ir.Calculation) -> list[Slot]:
        """Return the variables among the inputs, of the action that calls."""
        fields = dict.fromkeys(
            part
            for piece in calculation.inputs
            for part in ir.inside(piece.value)
            if isinstance(part, ir.FieldRef) and part in self._layout.local
        )
        return [slot for part in fields if (slot := self._layout.slot(part)) is not None]

    def functions(self) -> Iterator[str]:
        """Yield the C functions of every calculation."""
        for name, calculation in self._all.items():
            width = self.width(name)
            yield f"/* {calculation.algorithm}, {calculation.source} */"
            symbol = f"calculate_{self._layout.names('calculation', name)}"
            context = "struct xdp_md *ctx, " if _over_payload(calculation) else ""
            local = "".join(f", {c_type(slot.storage)} {slot.lvalue}" for slot in self._local(calculation))
            yield f"static __always_inline __u{width} {symbol}({context}struct scratch *s{local})"
            yield "{"
            if self._streamed(calculation):
                yield from indent(self._stream(calculation, width))
                yield "}"
                yield ""
                continue
            optional = list(dict.fromkeys(h for p in calculation.inputs for h in self._headers(p)))
            if len(optional) > _MAX_HEADERS:
                raise ir.unsupported(
                    f"a calculation over fields of more than {_MAX_HEADERS} headers", calculation.source
                )
            yield from indent(self._variants(calculation, optional, set()))
            yield "}"
            yield ""

    def _streamed(self, calculation: ir.Calculation) -> bool:
        """Tell whether the inputs have no length known when compiling."""
        return any(
            _is_payload(p) or any(True for _ in self._varbits(p)) or self._is_wide(p)
            for p in calculation.inputs
        ) or (len({h for p in calculation.inputs for h in self._headers(p)}) > _MAX_HEADERS)

    def _varbits(self, piece: ir.Piece) -> Iterator[ir.FieldRef]:
        """Yield the varbit fields among an input's."""
        value = piece.value
        if isinstance(value, ir.FieldRef) and self._program.field(value).varbit:
            yield value
        elif isinstance(value, ir.Named) and value.kind == "header":
            member = self._program.headers[value.name].type.varbit
            if member is not None:
                yield ir.FieldRef(value.name, member.name)

    def _is_wide(self, piece: ir.Piece) -> bool:
        value = piece.value
        if not isinstance(value, ir.FieldRef) or not self._program.headers[value.header].metadata:
            return False
        return self._program.field(value).width > MAX_ARITHMETIC

    def _stream(self, calculation: ir.Calculation, width: int) -> Iterator[str]:
        """Yield C that takes the inputs byte by byte; between varbit fields they must be whole bytes."""
        algorithm = calculation.algorithm
        yield f"struct stream stream = {{ .value = {_STREAM_STARTS.get(algorithm, '0')} }};"
        fixed: list[ir.Piece] = []
        for piece in (*calculation.inputs, None):
            if piece is not None and not (
                _is_payload(piece) or any(True for _ in self._varbits(piece)) or self._is_wide(piece)
            ):
                fixed.append(piece)
                continue
            yield from self._stream_fixed(calculation, fixed)
            fixed = []
            if piece is None:
                continue
            if _is_payload(piece):
                yield f"stream_payload_{algorithm}(ctx, s, &stream);"
                continue
            yield from self._stream_bytes(calculation, piece)
        yield f"return {_STREAM_ENDS[algorithm]};"

    def _stream_fixed(self, calculation: ir.Calculation, pieces: Sequence[ir.Piece]) -> Iterator[str]:
        for header, group in groupby(pieces, key=lambda p: next(iter(self._headers(p)), None)):
            merged = self._merge(list(group))
            length = sum(width for _, width in merged)
            if length % 8:
                what = f"a calculation with {length} bits, no whole bytes, beside a field of variable length"
                raise ir.unsupported(what, calculation.source)
            lines = []
            left = length // 8
            for word in _words(merged, 32):
                for byte in range(min(left, 4)):
                    part = c.binary(">>", word, c.number(24 - 8 * byte))
                    lines.append(f"stream_{calculation.algorithm}(&stream, {part.text});")
                left -= 4
            if header is None:
                yield from lines
            else:
                yield f"if ({self._layout.valid(header).text}) {{"
                yield from indent(lines)
                yield "}"

    def _stream_bytes(self, calculation: ir.Calculation, piece: ir.Piece) -> Iterator[str]:
        """Yield C for a field of bytes that is no number, or a whole header that has one."""
        value = piece.value
        step = f"stream_bytes_{calculation.algorithm}"
        if isinstance(value, ir.FieldRef):
            given = self._layout.bytes_of(value)
            length = given.length if self._program.field(value).varbit else str(given.room)
            lines = [f"{step}(&stream, {given.place}, {length}, {given.room});"]
            header = None if self._program.headers[value.header].metadata else value.header
        else:
            header = ir.named(value)
            kind = self._program.headers[header].type
            member = kind.varbit
            assert member is not None
            first, last = member.offset // 8, (member.offset + member.width) // 8
            place = self._layout.header(header)
            room, end = last - first, kind.bytes - last
            lines = [
                f"{step}(&stream, {place}, {first}, {first});",
                f"{step}(&stream, {place} + {first}, {self._layout.varbit_length(header)}, {room});",
                f"{step}(&stream, {place} + {last}, {end}, {end});",
            ]
        if header is None:
            yield from lines
        else:
            yield f"if ({self._layout.valid(header).text}) {{"
            yield from indent(lines)
            yield "}"

    def _headers(self, piece: ir.Piece) -> list[str]:
        value = piece.value
        if isinstance(value, ir.Named):
            return [value.name]
        if isinstance(value, ir.FieldRef) and not self._program.headers[value.header].metadata:
            return [value.header]
        return []

    def _variants(
        self, calculation: ir.Calculation, optional: Sequence[str], absent: set[str]
    ) -> Iterator[str]:
        if optional:
            yield f"if (!{self._layout.valid(optional[0])}) {{"
            yield from indent(self._variants(calculation, optional[1:], absent | {optional[0]}))
            yield "}"
            yield from self._variants(calculation, optional[1:], absent)
            return
        present = [p for p in calculation.inputs if not absent.intersection(self._headers(p))]
        if calculation.algorithm == "csum16" and (terms := self._raw_terms(present)) is not None:
            yield "__u64 sum = 0;"
            for term in terms:
                yield f"sum += {term};"
            yield f"return bpf_ntohs(csum16_fold{'' if len(terms) > 15 else '_few'}(sum));"
            return
        algorithm = calculation.algorithm
        if algorithm == "crc32" and 0 < sum(p.width for p in present) <= 8 * _CRC_ROWS:
            yield from self._crc_of_bytes(present)
            return
        pieces = self._merge(present)
        length = sum(width for _, width in pieces)
        words = _words(pieces, 32)
        if algorithm == "identity":
            head = _words(_head(pieces, 64), 32)
            code = c.number(0)
            for word in head:
                code = c.binary("|", c.binary("<<", code, c.number(32), 64), word)
            kept = min((length + 7) // 8, 8)
            padded = (min(length, 64) + 31) // 32 * 32
            yield f"return {c.binary('>>', code, c.number(padded - 8 * kept)).text};"
            return
        if algorithm == "csum16":
            yield "__u64 sum = 0;"
            for piece in _sum_terms(pieces):
                yield f"sum += {piece.text};"
            yield "return csum16_fold(sum);"
            return
        if algorithm == "xor16":
            yield "__u32 sum = 0;"
            for word in words:
                yield f"sum ^= {word.text};"
            yield "return sum ^ sum >> 16;"
            return
        left = (length + 7) // 8
        if algorithm == "crc32":
            yield "__u32 crc = 0xffffffff;"
            for at in range(0, len(words), 2):
                code = c.number(0)
                for n, word in enumerate(words[at : at + 2]):
                    swapped = c.place(f"__builtin_bswap32({word.text})", 32)
                    code = c.binary("|", code, c.binary("<<", swapped, c.number(32 * n), 64))
                yield f"crc = crc32_bytes(crc, {code.text}, {min(left, 8)});"
                left -= 8
            yield "return ~crc;"
            return
        yield "__u32 crc = 0;"
        for word in words:
            for byte in range(min(left, 4)):
                yield f"crc = {algorithm}_byte(crc, {c.binary('>>', word, c.number(24 - 8 * byte)).text});"
            left -= 4
        yield "return crc;"

    def _crc_of_bytes(self, pieces: Sequence[ir.Piece]) -> Iterator[str]:
        """Yield C that adds up what each byte of few is to a CRC-32: it is linear.

        A byte that lies in memory is loaded by itself, which is less than to cut it out of a word.
        """
        parts = list(self._bytes_of(pieces))
        yield "const __u8 *rows = crc32_rows();"
        yield f"__u64 crc = {crc32(bytes(len(parts))):#x}; /* of as many zeros */"
        for number, part in enumerate(parts):
            yield f"CRC32_ADD(crc, rows, {part}, {len(parts) - 1 - number});"
        yield "return crc;"

    def _bytes_of(self, pieces: Sequence[ir.Piece]) -> Iterator[str]:
        """Yield C for four times each byte of the inputs, the last one filled with zeros."""
        if any(piece.width % 8 for piece in pieces):
            bits = sum(piece.width for piece in pieces)
            words = _words(self._merge(pieces), 32)
            yield from _bytes_of_words(words, (bits + 7) // 8)
            return
        for name, first, width, expression in self._regions(pieces):
            place = self._memory_of(expression) if name is None else None
            if name is not None and first % 8 == 0:
                at = f"{self._layout.header(name)} + {first // 8}"
                yield from (f"(__u64)LOAD8({at} + {n}) << 2" for n in range(width // 8))
            elif place is not None:
                yield from (f"(__u64)BYTE_OF({place}, {width // 8 - 1 - n}) << 2" for n in range(width // 8))
            else:
                piece = ir.Piece(expression, width) if expression is not None else None
                merged = self._merge([piece]) if piece is not None else self._part(name, first, width)
                yield from _bytes_of_words(_words(merged, 32), width // 8)

    def _part(self, name: str | None, first: int, width: int) -> list[tuple[C, int]]:
        assert name is not None
        return [
            (self._layout.load_bits(name, first + at, min(32, width - at)), min(32, width - at))
            for at in range(0, width, 32)
        ]

    def _memory_of(self, expression: ir.Expr | None) -> str | None:
        """Return the C lvalue of a field that lies in memory, None of what does not."""
        slot = self._layout.slot(expression) if isinstance(expression, ir.FieldRef) else None
        if slot is None or not slot.lvalue.startswith(
            (f"{self._layout.memory}m.", f"{self._layout.memory}late.")
        ):
            return None
        return slot.lvalue

    def _merge(self, pieces: Sequence[ir.Piece]) -> list[tuple[C, int]]:
        """Return (C code, width) of inputs at most 64 bits wide, adjacent fields of a header in one load."""
        merged = []
        for name, first, width, expression in self._regions(pieces):
            if name is None and expression is not None:
                merged += self._expression_pieces(expression, width)
                continue
            at = 0
            while at < width and name is not None:
                step = min(32 - (first + at) % 32, width - at)
                merged.append((self._layout.load_bits(name, first + at, step), step))
                at += step
        return merged

    def _regions(self, pieces: Sequence[ir.Piece]) -> list[tuple[str | None, int, int, ir.Expr | None]]:
        """Return (header, first bit, width, None) of adjacent inputs, or (None, 0, width, value)."""
        regions: list[tuple[str | None, int, int, ir.Expr | None]] = []
        for piece in pieces:
            value = piece.value
            region: tuple[str | None, int, int, ir.Expr | None]
            if isinstance(value, ir.Named):
                region = (value.name, 0, piece.width, None)
            elif isinstance(value, ir.FieldRef) and not self._program.headers[value.header].metadata:
                region = (value.header, self._program.field(value).offset, piece.width, None)
            else:
                regions.append((None, 0, piece.width, value))
                continue
            if regions and regions[-1][0] == region[0] and regions[-1][1] + regions[-1][2] == region[1]:
                name, first, width, _ = regions.pop()
                region = (name, first, width + region[2], None)
            regions.append(region)
        return regions

    def _raw_terms(self, pieces: Sequence[ir.Piece]) -> list[str] | None:
        """Return the inputs of a checksum as words in network byte order, None where some are no whole words.

        A sum of 16-bit words whose bytes are swapped is the sum with its bytes swapped.
        """
        terms: list[str] = []
        for name, first, width, expression in self._regions(pieces):
            if first % 16 or width % 16:
                return None
            if name is None:
                if expression is None or width not in (16, 32, 64):
                    return None
                code = f"bpf_hton{'s' if width == 16 else 'l'}"
                value = Expressions(self._layout, ir.Source()).assignable(expression, width)
                if width == 64:
                    swapped = f"__builtin_bswap64({value.text})"
                    terms += [f"(__u32){swapped}", f"{swapped} >> 32"]
                else:
                    terms.append(f"{code}({value.text})")
                continue
            place, at, end = self._layout.header(name), first // 8, (first + width) // 8
            while at < end:
                size = 4 if at % 4 == 0 and end - at >= 4 else 2
                terms.append(f"*(const any{8 * size} *)({place} + {at})")
                at += size
        return terms

    def _expression_pieces(self, expression: ir.Expr, width: int) -> list[tuple[C, int]]:
        if width > 128:
            raise ir.unsupported(f"an input of {width} bits, more than 128, to a hash", ir.Source())
        code = Expressions(self._layout, ir.Source()).assignable(expression, width)
        if width <= 64:
            return [(code, width)]
        high = c.binary(">>", c.cast(code, 128), c.number(64))
        return [(c.cast(high, 64), width - 64), (c.cast(code, 64), 64)]

    def _expression_width(self, expression: ir.Expr, source: ir.Source) -> int:
        if isinstance(expression, ir.FieldRef):
            return self._program.field(expression).width
        raise ir.unsupported("a selector input that is no field", source)


def _bytes_of_words(words: Sequence[C], count: int) -> Iterator[str]:
    """Yield C for four times each of the first bytes of words of 32 bits."""
    for number in range(count):
        word, shift = words[number // 4], 24 - 8 * (number % 4)
        yield f"{c.binary('>>', word, c.number(shift - 2)) if shift else f'(__u64)({word}) << 2'} & 0x3fc"


def _is_payload(piece: ir.Piece) -> bool:
    return isinstance(piece.value, ir.Named) and piece.value.kind == "payload"


def _over_payload(calculation: ir.Calculation) -> bool:
    return any(_is_payload(piece) for piece in calculation.inputs)


def _head(pieces: Sequence[tuple[C, int]], bits: int) -> list[tuple[C, int]]:
    """Return the first `bits` bits of the pieces."""
    head: list[tuple[C, int]] = []
    left = bits
    for code, width in pieces:
        if left <= 0:
            break
        take = min(width, left)
        head.append((c.binary(">>", code, c.number(width - take)), take))
        left -= take
    return head


def _sum_terms(pieces: Sequence[tuple[C, int]]) -> Iterator[C]:
    """Yield the pieces as terms of a sum of 16 bits, in which a shift by 16 bits changes nothing.

    So none is moved further than to the end of the 16 bits that it ends in.
    """
    end = 0
    for code, width in pieces:
        halves = [(c.binary(">>", code, c.number(32)), width - 32), (c.masked(code, 32), 32)]
        for part, bits in halves if width > 32 else [(code, width)]:
            end += bits
            shift = -end % 16
            yield c.binary("<<", part, c.number(shift), 64)


def _words(pieces: Sequence[tuple[C, int]], size: int) -> list[C]:
    """Pack pieces, most significant bit first, into words of `size` bits; zeros fill the last one."""
    words: list[C] = []
    position = 0
    for code, width in pieces:
        done = 0
        while done < width:
            index, inside = divmod(position + done, size)
            if index == len(words):
                words.append(c.number(0))
            take = min(width - done, size - inside)
            part = c.binary(">>", code, c.number(width - done - take))
            if done:
                part = c.masked(part, take)
            part = c.cast(part, 32) if part.bits > 32 else part
            words[index] = c.binary(
                "|", words[index], c.binary("<<", part, c.number(size - inside - take), 32)
            )
            done += take
        position += width
    return words
