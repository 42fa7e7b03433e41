"""The instrumented variant of a program: C that writes down what happens to a packet that is wanted.

A program that is not instrumented has nothing of this: every method yields no line. A record is the whole
scratch (headers, metadata) at that moment, so what a step has changed is what the next record says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from duet_p4.xdp_switch.compiler import ir

BYTES_KEPT = 256
"""Of a frame, as it comes in and as it leaves."""


class Kind(IntEnum):
    """What a record is about; `enum trace_kind` of include/trace.h."""

    START = 0
    STATE = 1
    PARSED = 2
    BRANCH = 3
    TABLE = 4
    ACTION = 5
    DONE = 6
    DROP = 7
    SENT = 8


class Tracing:
    """Yields the hooks of a program; all of them empty where it is not `active`."""

    def __init__(self, program: ir.Program, active: bool) -> None:
        self.active = active
        self.states = list(program.parser)
        self.tables = list(program.tables())
        self.branches = [
            (pipeline.name, name)
            for pipeline in (program.ingress, program.egress)
            for name in pipeline.conditionals
        ]
        self._arguments = max((len(action.parameters) for action in program.actions.values()), default=0)

    def members(self) -> list[str]:
        """Return the members of `struct scratch` that records need."""
        if not self.active:
            return []
        return [
            "__u64 trace_packet; /* 0: nobody wants to see it */",
            "__u64 trace_ns;",
            "__u64 trace_a;",
            "__u64 trace_b;",
            f"__u64 trace_arguments[{2 * max(self._arguments, 1)}];",
            f"__u8 trace_bytes[{BYTES_KEPT}];",
            "__u32 trace_kind;",
            "__u32 trace_number;",
        ]

    def include(self) -> Iterator[str]:
        """Yield the include of what the hooks call."""
        if self.active:
            yield '#include "trace.h"'

    def entered(self) -> Iterator[str]:
        """Yield C for a packet of which nothing is known yet."""
        if self.active:
            yield "s->m.trace_packet = 0;"

    def start(self) -> Iterator[str]:
        """Yield C that decides whether a packet is traced."""
        if self.active:
            yield "trace_begin(ctx, s, ingress_port);"

    def state(self, name: str) -> Iterator[str]:
        """Yield C for a parser state that is entered."""
        yield from self._record(Kind.STATE, self.states.index(name))

    def parsed(self) -> Iterator[str]:
        """Yield C for the end of the parser."""
        yield from self._record(Kind.PARSED, "s->parser_error")

    def branch(self, pipeline: str, name: str, condition: str) -> Iterator[str]:
        """Yield C for a condition that is about to be decided."""
        number = self.branches.index((pipeline, name)) if self.active else 0
        yield from self._record(Kind.BRANCH, number, f"({condition}) ? 1 : 0")

    def table(self, name: str, handle: str | None = None) -> Iterator[str]:
        """Yield C for a lookup that was made; `handle` is C for the entry's, if there may be one."""
        number = self.tables.index(name) if self.active else 0
        hit = ("hit", f"hit ? {handle} : 0") if handle is not None else ("0", "0")
        yield from self._record(Kind.TABLE, number, *hit)

    def action(self, action: ir.Action, parameters: Sequence[str]) -> Iterator[str]:
        """Yield C for an action that begins."""
        if not self.active:
            return
        yield "if (s->m.trace_packet) {"
        for number, (code, parameter) in enumerate(zip(parameters, action.parameters, strict=True)):
            yield f"    s->m.trace_arguments[{2 * number}] = (__u64){code};"
            high = f"(__u64)({code} >> 64)" if parameter.width > 64 else "0"
            yield f"    s->m.trace_arguments[{2 * number + 1}] = {high};"
        yield f"    trace_record(s, TRACE_ACTION, {action.id}, 0, 0);"
        yield "}"

    def done(self, number: int) -> Iterator[str]:
        """Yield C for the end of a pipeline: 0 is ingress, 1 egress."""
        yield from self._record(Kind.DONE, number)

    def _record(self, kind: Kind, number: int | str, a: str = "0", b: str = "0") -> Iterator[str]:
        if self.active:
            yield f"TRACE(TRACE_{kind.name}, {number}, {a}, {b});"


_MEMBER = re.compile(r"__u(\d+) (\w+)(?:\[(\d+)\])?( __attribute__\(\(aligned\(8\)\)\))?;")


def offsets(declarations: Iterable[str]) -> tuple[dict[str, int], int]:
    """Return where the members of `struct scratch` lie, by `name` or `m.name`, and its size.

    The C that is compiled asserts the same, see `checks`.
    """
    outer, inner = _Struct(), _Struct()
    inside = False
    for line in declarations:
        text = line.strip()
        if text == "struct {":
            inner, inside = _Struct(), True
        elif text.startswith("}") and inside:
            inside = False
            outer.add_struct(text.split()[1], inner)
        elif found := _MEMBER.match(text):
            width, name, number, aligned = found.groups()
            (inner if inside else outer).add(name, int(width) // 8, int(number or 1), 8 if aligned else 1)
    return outer.places, outer.size


class _Struct:
    """A C struct that is laid out member by member."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.align = 1
        self._end = 0

    @property
    def size(self) -> int:
        """The size, padded so that an array of it is aligned."""
        return -(-self._end // self.align) * self.align

    def add(self, name: str, size: int, number: int, align: int) -> None:
        """Add `number` integers of a size."""
        self.places[name] = self._place(size * number, max(size, align))

    def add_struct(self, name: str, struct: _Struct) -> None:
        """Add a struct that is aligned to 8 bytes or more."""
        struct.align = max(struct.align, 8)
        start = self._place(struct.size, struct.align)
        self.places |= {name: start, **{f"{name}.{n}": start + at for n, at in struct.places.items()}}

    def _place(self, size: int, align: int) -> int:
        start = -(-self._end // align) * align
        self.align, self._end = max(self.align, align), start + size
        return start


def checks(places: dict[str, int], size: int) -> Iterator[str]:
    """Yield C that does not compile where members lie elsewhere."""
    for name, place in places.items():
        yield f'_Static_assert(__builtin_offsetof(struct scratch, {name}) == {place}, "{name}");'
    yield f'_Static_assert(sizeof(struct scratch) == {size}, "scratch");'
