"""The parser in C.

A parser graph may loop over header stacks, which the kernel's verifier could not follow. So states are
first expanded: one copy for each index of the stacks it may still extract into, which makes the graph
acyclic. Copies are also made by the cursor's offset where it is known when compiling (a few per state, the
nearest to the start first); the rest reads the cursor from the scratch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.expressions import Expressions, cut
from duet_p4.xdp_switch.compiler.layout import Layout, copy_bytes, identifier, indent

_COPIES_BY_OFFSET = 3
_MAX_COPIES = 512


@dataclass(frozen=True, slots=True)
class _Copy:
    """A parser state with the stack indices and the cursor offset it is entered with (None: any)."""

    state: str
    indices: tuple[tuple[str, int], ...]
    offset: int | None

    @property
    def label(self) -> str:
        parts = [self.state, *(f"{stack}{index}" for stack, index in self.indices)]
        parts.append("any" if self.offset is None else str(self.offset))
        return identifier("state_" + "_".join(parts))


class Parser:
    """Compiles the parser."""

    def __init__(self, layout: Layout, actions: Actions) -> None:
        self._layout = layout
        self._program = layout.program
        self._actions = actions
        self._stacks_ahead = self._find_stacks_ahead()
        self._offsets: dict[tuple[str, tuple[tuple[str, int], ...]], set[int]] = {}
        self._pending: deque[_Copy] = deque()
        self._known: set[_Copy] = set()
        self._edges: dict[_Copy | None, set[_Copy]] = {}
        self._current: _Copy | None = None

    def function(self) -> Iterator[str]:
        """Yield the C function that parses a packet into the scratch."""
        yield "static __always_inline void parse(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        yield "    __u8 *data = (__u8 *)(long)ctx->data;"
        yield "    __u8 *data_end = (__u8 *)(long)ctx->data_end;"
        yield "    __u32 cursor = 0;"
        yield ""
        if self._program.parser_start is not None:
            start = self._copy(self._program.parser_start, {}, 0)
            yield f"    goto {start.label};"
            while self._pending:
                copy = self._pending.popleft()
                yield ""
                yield from self._state(copy)
            self._refuse_loops()
        yield ""
        yield "done: __attribute__((unused));"
        yield "    s->parsed = cursor;"
        yield "}"
        yield ""

    def _find_stacks_ahead(self) -> dict[str, set[str]]:
        """Return for each state the stacks that it or a state after it extracts into."""
        ahead = {
            name: {
                a.name
                for op in state.operations
                for a in op.arguments
                if isinstance(a, ir.Named) and a.kind == "stack"
            }
            | {k.stack for k in state.key if isinstance(k, ir.StackField)}
            for name, state in self._program.parser.items()
        }
        changed = True
        while changed:
            changed = False
            for name, state in self._program.parser.items():
                for transition in state.transitions:
                    more = ahead.get(transition.next_state or "", set()) - ahead[name]
                    if more:
                        ahead[name] |= more
                        changed = True
        return ahead

    def _copy(self, state: str, indices: dict[str, int], offset: int | None) -> _Copy:
        """Return the copy of a state to enter with these indices and this offset."""
        if state not in self._program.parser:
            raise ValueError(f"the BMv2 JSON contradicts itself: there is no parser state {state}")
        kept = tuple((stack, indices.get(stack, 0)) for stack in sorted(self._stacks_ahead[state]))
        if offset is not None:
            offsets = self._offsets.setdefault((state, kept), set())
            if offset not in offsets and len(offsets) >= _COPIES_BY_OFFSET:
                offset = None
            else:
                offsets.add(offset)
        copy = _Copy(state, kept, offset)
        if copy not in self._known:
            self._known.add(copy)
            self._pending.append(copy)
            if len(self._known) > _MAX_COPIES:
                raise ir.unsupported(
                    f"a parser loop through state {state} (unrolled, it has more than {_MAX_COPIES} states)",
                    self._program.parser[state].source,
                )
        return copy

    def _state(self, copy: _Copy) -> Iterator[str]:
        state = self._program.parser[copy.state]
        self._current = copy
        yield f"{copy.label}: /* {state.name}, {state.source} */"
        yield "{"
        cursor = _Cursor(copy.offset)
        if copy.offset is None:
            yield from indent(cursor.declare("s->offset"))
        indices = dict(copy.indices)
        ended = False
        for operation in state.operations:
            lines, ended = self._operation(operation, cursor, indices)
            yield from indent(lines)
            if ended:
                break
        if not ended:
            yield from indent(self._transitions(state, cursor, indices))
        yield "}"

    def _refuse_loops(self) -> None:
        """Refuse a graph of copies that still has a cycle."""
        entered: dict[_Copy, int] = dict.fromkeys(self._known, 0)
        for following in self._edges.values():
            for copy in following:
                entered[copy] += 1
        free = [copy for copy, count in entered.items() if not count]
        while free:
            copy = free.pop()
            del entered[copy]
            for after in self._edges.get(copy, ()):
                entered[after] -= 1
                if not entered[after]:
                    free.append(after)
        for copy in entered:
            state = self._program.parser[copy.state]
            raise ir.unsupported(
                f"a parser loop through state {state.name} without a header stack", state.source
            )

    def _fail(self, error: str | int, cursor: _Cursor) -> list[str]:
        code = error if isinstance(error, int) else self._program.errors.get(error, 0)
        shown = f" /* {error} */" if isinstance(error, str) else ""
        return [f"{{ s->parser_error = {code};{shown} cursor = {cursor.code}; goto done; }}"]

    def _need(self, cursor: _Cursor, count: int | str) -> list[str]:
        return [f"if ({cursor.pointer} + {count} > data_end)", *indent(self._fail("PacketTooShort", cursor))]

    def _operation(
        self, operation: ir.Primitive, cursor: _Cursor, indices: dict[str, int]
    ) -> tuple[list[str], bool]:
        """Return the C statements of a parser operation, and whether it always ends the parser."""
        op, arguments, source = operation.op, operation.arguments, operation.source
        expressions = Expressions(self._layout, source)
        if op == "extract":
            return self._extract(arguments[0], cursor, indices)
        if op == "set":
            target, value = arguments
            if not isinstance(target, ir.FieldRef):
                raise ir.unsupported("assignment to what is no field", source)
            if isinstance(value, ir.Lookahead):
                return self._lookahead(target, value, cursor, source), False
            value = self._resolve(value, indices)
            return self._actions.set_field(target, expressions, value), False
        if op == "verify":
            condition, error = arguments
            code = expressions.value(error).code
            test = expressions.condition(self._resolve(condition, indices))
            failing = f"{{ s->parser_error = {code}; cursor = {cursor.code}; goto done; }}"
            return [f"if (!{test})", f"    {failing}"], False
        if op in ("advance", "shift"):
            return self._advance(operation, cursor, indices), False
        if op in ("extract_VL",):
            raise ir.unsupported("extraction of a varbit header", source)
        resolved = ir.Primitive(op, tuple(self._resolve(a, indices) for a in arguments), source)
        return self._actions.primitive(resolved), False

    def _resolve(self, expr: ir.Expr, indices: dict[str, int]) -> ir.Expr:
        """Replace "last" of a stack by the header it is in this copy of the state."""
        if isinstance(expr, ir.StackField):
            index = indices.get(expr.stack, 0)
            name = self._program.stacks[expr.stack].headers[max(index - 1, 0)]
            return ir.FieldRef(name, expr.field)
        if isinstance(expr, ir.Op):
            parts = [
                None if e is None else self._resolve(e, indices)
                for e in (expr.left, expr.right, expr.condition)
            ]
            return ir.Op(expr.op, *parts)
        return expr

    def _extract(self, target: ir.Expr, cursor: _Cursor, indices: dict[str, int]) -> tuple[list[str], bool]:
        if not isinstance(target, ir.Named):
            raise ValueError("the BMv2 JSON contradicts itself: an extract names no header")
        lines: list[str] = []
        name = target.name
        if target.kind == "stack":
            stack = self._program.stacks[name]
            index = indices.get(name, 0)
            if index >= len(stack.headers):
                return self._fail("StackOutOfBounds", cursor), True
            indices[name] = index + 1
            name = stack.headers[index]
            after = [f"s->{identifier('next_' + stack.name)} = {index + 1};"]
        else:
            after = []
        size = self._program.headers[name].type.bytes
        lines += self._need(cursor, size)
        lines += copy_bytes(self._layout.header(name), cursor.pointer, size)
        lines.append(f"s->valid |= VALID_{identifier(name)};")
        cursor.move(size)
        return lines + after, False

    def _lookahead(
        self, target: ir.FieldRef, ahead: ir.Lookahead, cursor: _Cursor, source: ir.Source
    ) -> list[str]:
        first, width = ahead.offset % 8, ahead.width
        if width > 64 or first + width > 64:
            raise ir.unsupported(f"a lookahead of {width} bits, more than 64,", source)
        start, count = ahead.offset // 8, (first + width + 7) // 8
        lines = self._need(cursor, start + count)
        parts = []
        at, left = start, count
        while left:
            size = next(n for n in (8, 4, 2, 1) if n <= left)
            left -= size
            part = f"(__u64)LOAD{8 * size}({cursor.pointer} + {at})"
            parts.append(f"{part} << {8 * left}" if left else part)
            at += size
        code = f"({' | '.join(parts)})"
        drop = 8 * count - first - width
        if drop:
            code = f"({code} >> {drop})"
        if first:
            code = f"({code} & {hex((1 << width) - 1)})"
        member = self._program.field(target)
        if width > member.width:
            code = f"({code} & {hex((1 << member.width) - 1)}ull)"
        return lines + self._layout.store(target, code)

    def _advance(self, operation: ir.Primitive, cursor: _Cursor, indices: dict[str, int]) -> list[str]:
        amount = self._resolve(operation.arguments[0], indices)
        if isinstance(amount, ir.Const):
            count = amount.value if operation.op == "shift" else amount.value // 8
            if operation.op == "advance" and amount.value % 8:
                return [f"if (1) {self._fail('ParserInvalidArgument', cursor)[0]}"]
            lines = self._need(cursor, count)
            cursor.move(count)
            return lines
        bits = cut(Expressions(self._layout, operation.source).value(amount), 32)
        lines = [
            "{",
            f"    __u32 bits = {bits};",
            f"    if (bits & 7) {self._fail('ParserInvalidArgument', cursor)[0]}",
            "    bits >>= 3;",
            f"    if (bits > 0x3fff || {cursor.pointer} + bits > data_end)",
            *indent(self._fail("PacketTooShort", cursor), 2),
            f"    s->offset = {cursor.code} + bits;",
            "}",
        ]
        cursor.reload()
        return [*lines, *cursor.declare("s->offset")]

    def _transitions(self, state: ir.ParserState, cursor: _Cursor, indices: dict[str, int]) -> Iterator[str]:
        widths = []
        expressions = Expressions(self._layout, state.source)
        names = []
        for number, key in enumerate(state.key):
            resolved = self._resolve(key, indices)
            if isinstance(resolved, ir.Lookahead):
                raise ir.unsupported("a lookahead inside of select", state.source)
            if not isinstance(resolved, ir.FieldRef):
                raise ir.unsupported("a select on what is no field", state.source)
            width = self._program.field(resolved).width
            if width > 64:
                raise ir.unsupported(f"a select on a field of {width} bits, more than 64,", state.source)
            widths.append((width + 7) // 8 * 8)
            names.append(f"key{number}")
            code = (
                f"(__u64){cut(expressions.value(resolved), width)}"
                if width > 32
                else cut(expressions.value(resolved), width)
            )
            kind = "__u64" if width > 32 else "__u32"
            yield f"{kind} key{number} = {code};"
        for transition in state.transitions:
            tests = []
            if transition.mask is not None:
                shift = sum(widths)
                for name, width in zip(names, widths, strict=True):
                    shift -= width
                    mask = transition.mask >> shift & (1 << width) - 1
                    value = transition.value >> shift & mask
                    full = mask == (1 << width) - 1
                    if mask:
                        tests.append(
                            f"{name} == {hex(value)}" if full else f"({name} & {hex(mask)}) == {hex(value)}"
                        )
            go = list(self._go(transition.next_state, cursor, indices))
            if tests:
                yield f"if ({' && '.join(tests)}) {{"
                yield from indent(go)
                yield "}"
            else:
                yield from go
                return
        yield from self._go(None, cursor, indices)

    def _go(self, state: str | None, cursor: _Cursor, indices: dict[str, int]) -> Iterator[str]:
        if state is None:
            yield f"cursor = {cursor.code};"
            yield "goto done;"
            return
        copy = self._copy(state, indices, cursor.offset)
        self._edges.setdefault(self._current, set()).add(copy)
        if copy.offset is None:
            yield f"s->offset = {cursor.code};"
        yield f"goto {copy.label};"


class _Cursor:
    """The parser's cursor within one state: a known offset, or a C variable plus bytes since."""

    def __init__(self, offset: int | None) -> None:
        self.offset = offset
        self._since = 0
        self._reloads = 0

    @property
    def code(self) -> str:
        """The C expression for the cursor."""
        if self.offset is not None:
            return str(self.offset)
        return f"at{self._reloads} + {self._since}" if self._since else f"at{self._reloads}"

    @property
    def pointer(self) -> str:
        """The C expression for the packet's bytes at the cursor."""
        if self.offset is not None:
            return f"data + {self.offset}"
        return f"here{self._reloads} + {self._since}" if self._since else f"here{self._reloads}"

    def declare(self, value: str) -> list[str]:
        """Return C that loads the cursor's variable, bounded so that the verifier accepts it."""
        name = f"at{self._reloads}"
        return [
            f"__u32 {name} = {value} & 0x3fff;",
            f"__u8 *here{self._reloads} = data + {name};",
            f"HIDE(here{self._reloads});",
        ]

    def move(self, count: int) -> None:
        """Go `count` bytes on."""
        if self.offset is not None:
            self.offset += count
        else:
            self._since += count

    def reload(self) -> None:
        """Go on from another variable, to be declared."""
        self._reloads += 1
        self.offset, self._since = None, 0
