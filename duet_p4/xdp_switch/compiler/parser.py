"""The parser in C.

A parser graph may loop over header stacks, which the kernel's verifier could not follow. So states are
first expanded: one copy for each index of the stacks it may still extract into, which makes the graph
acyclic. Copies are also made by the cursor's offset where it is known when compiling (a few per state, the
nearest to the start first); the rest reads the cursor from the scratch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.cursor import Cursor
from duet_p4.xdp_switch.compiler.expressions import Expressions, cut
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, Layout, copy_bytes, indent
from duet_p4.xdp_switch.compiler.names import Names

_COPIES_BY_OFFSET = 3
MAX_ROUNDS = 32
"""How often a packet may go round the loops of a parser that no header stack bounds."""
_MAX_COPIES = 512


@dataclass(frozen=True, slots=True)
class _Copy:
    """A parser state with the stack indices and the cursor offset it is entered with (None: any)."""

    state: str
    indices: tuple[tuple[str, int], ...]
    offset: int | None

    def label(self, names: Names) -> str:
        """Return the C label."""
        parts = [self.state, *(f"{stack}{index}" for stack, index in self.indices)]
        parts.append("any" if self.offset is None else str(self.offset))
        return f"state_{names('parser copy', ' '.join(parts))}"


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
        self._edges: dict[_Copy, dict[_Copy, None]] = {}
        self._current: _Copy | None = None
        self._set_sizes: dict[str, int] = {}

    def function(self) -> Iterator[str]:
        """Yield the C function that parses a packet into the scratch."""
        yield from self._value_sets()
        yield "static __always_inline void parse(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        yield "    __u8 *data = (__u8 *)(long)ctx->data;"
        yield "    __u8 *data_end = (__u8 *)(long)ctx->data_end;"
        yield "    __u32 cursor = 0;"
        steps = (step for state in self._program.parser.values() for step in state.operations)
        yield from indent(self._layout.variables(steps))
        body: list[_Line] = []
        if self._program.parser_start is not None:
            start = self._copy(self._program.parser_start, {}, 0)
            body.append(f"    goto {self._label(start)};")
            while self._pending:
                copy = self._pending.popleft()
                body.append("")
                body += self._state(copy)
        again = self._back_edges()
        if again:
            yield "    __u32 rounds = 0;"
        yield ""
        for line in body:
            if isinstance(line, _Jump):
                if (line.origin, line.target) in again:
                    yield f"{line.indent}if (++rounds > {MAX_ROUNDS}) {line.too_often}"
                    yield f"{line.indent}BARRIER(); /* every round looks the same to the verifier */"
                yield f"{line.indent}goto {self._label(line.target)};"
            else:
                yield line
        yield ""
        yield "done:;"
        yield "    s->parsed = cursor;"
        yield "}"
        yield ""

    def _label(self, copy: _Copy) -> str:
        return copy.label(self._layout.names)

    def _find_stacks_ahead(self) -> dict[str, set[str]]:
        """Return for each state the stacks whose index it or a state after it must know."""
        ahead = {
            name: {
                stack
                for e in (*state.key, *(a for op in state.operations for a in op.arguments))
                for part in ir.inside(e)
                if (stack := _indexed(part)) is not None
            }
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

    def _state(self, copy: _Copy) -> Iterator[_Line]:
        state = self._program.parser[copy.state]
        self._current = copy
        yield f"{self._label(copy)}: /* {state.name}, {state.source} */"
        yield "{"
        yield from indent(self._layout.tracing.state(state.name))
        cursor = Cursor(copy.offset)
        if copy.offset is None:
            yield from indent(cursor.declare(self._layout.offset))
        indices = dict(copy.indices)
        ended = False
        for operation in state.operations:
            lines, ended = self._operation(operation, cursor, indices)
            yield from indent(lines)
            if ended:
                break
        if not ended:
            yield from _indent(self._transitions(state, cursor, indices))
        yield "}"

    def _back_edges(self) -> set[tuple[_Copy, _Copy]]:
        """Return the edges of the graph of copies that close a cycle, as a walk from the start meets them."""
        found: set[tuple[_Copy, _Copy]] = set()
        done: set[_Copy] = set()
        for start in self._edges:
            if start in done:
                continue
            path = {start: None}
            pending = [(start, iter(self._edges.get(start, ())))]
            while pending:
                copy, following = pending[-1]
                after = next(following, None)
                if after is None:
                    pending.pop()
                    del path[copy]
                    done.add(copy)
                elif after in path:
                    found.add((copy, after))
                elif after not in done:
                    path[after] = None
                    pending.append((after, iter(self._edges.get(after, ()))))
        return found

    def _fail(self, error: str | int, cursor: Cursor) -> list[str]:
        code = error if isinstance(error, int) else self._program.errors.get(error, 0)
        shown = f" /* {error} */" if isinstance(error, str) else ""
        return [f"{{ s->parser_error = {code};{shown} cursor = {cursor.code}; goto done; }}"]

    def _need(self, cursor: Cursor, count: int | str) -> list[str]:
        return [
            f"if ({cursor.pointer} + {count} + PADDING > data_end)",
            *indent(self._fail("PacketTooShort", cursor)),
        ]

    def _operation(
        self, operation: ir.Primitive, cursor: Cursor, indices: dict[str, int]
    ) -> tuple[list[str], bool]:
        """Return the C statements of a parser operation, and whether it always ends the parser."""
        op, arguments, source = operation.op, operation.arguments, operation.source
        expressions = Expressions(self._layout, source)
        if op == "extract":
            return self._extract(operation, cursor, indices)
        if op == "set":
            target, value = arguments
            if not isinstance(target, ir.FieldRef):
                raise ir.unsupported("assignment to what is no field", source)
            if isinstance(value, ir.Lookahead):
                return self._lookahead(target, value, cursor), False
            value = self._resolve(value, indices)
            return self._actions.set_field(target, expressions, value), False
        if op == "verify":
            condition, error = arguments
            code = expressions.value(error).code.text
            test = c.negation(expressions.condition(self._resolve(condition, indices)))
            failing = f"{{ s->parser_error = {code}; cursor = {cursor.code}; goto done; }}"
            return [f"if ({test.text})", f"    {failing}"], False
        if op in ("advance", "shift"):
            return self._advance(operation, cursor, indices), False
        if op == "extract_VL":
            return self._extract_varbit(operation, cursor, indices), False
        resolved = ir.Primitive(op, tuple(self._resolve(a, indices) for a in arguments), source)
        return self._actions.primitive(resolved), False

    def _resolve(self, expr: ir.Expr, indices: dict[str, int]) -> ir.Expr:
        """Replace "last" of a stack by the header it is in this copy of the state."""
        if isinstance(expr, ir.StackField):
            last = max(indices.get(expr.stack, 0) - 1, 0)
            if expr.member is not None:
                union = self._program.unions[self._program.union_stacks[expr.stack].unions[last]]
                return ir.FieldRef(union.members[expr.member], expr.field)
            name = self._program.stacks[expr.stack].headers[last]
            if expr.field == "last" and expr.field not in self._program.headers[name].type.fields:
                return ir.Named("header", name)
            return ir.FieldRef(name, expr.field)
        if isinstance(expr, ir.Op):
            parts = [
                None if e is None else self._resolve(e, indices)
                for e in (expr.left, expr.right, expr.condition)
            ]
            return ir.Op(expr.op, *parts)
        return expr

    def _next_header(
        self, target: ir.Expr, cursor: Cursor, indices: dict[str, int]
    ) -> tuple[str | None, list[str]]:
        """Return the header to extract into, None past the end of a stack, and C for after it."""
        if isinstance(target, ir.Named) and target.kind != "stack":
            return target.name, []
        if isinstance(target, ir.UnionNext):
            unions = self._program.union_stacks[target.stack].unions
            names = tuple(self._program.unions[u].members[target.member] for u in unions)
            stack = target.stack
        elif isinstance(target, ir.Named):
            names, stack = self._program.stacks[target.name].headers, target.name
        else:
            raise ValueError("the BMv2 JSON contradicts itself: an extract names no header")
        index = indices.get(stack, 0)
        if index >= len(names):
            return None, self._fail("StackOutOfBounds", cursor)
        indices[stack] = index + 1
        return names[index], [f"{self._layout.next(stack)} = {index + 1};"]

    def _extract(
        self, operation: ir.Primitive, cursor: Cursor, indices: dict[str, int]
    ) -> tuple[list[str], bool]:
        name, after = self._next_header(operation.arguments[0], cursor, indices)
        if name is None:
            return after, True
        size = self._program.headers[name].type.bytes
        lines = self._need(cursor, size)
        lines += copy_bytes(self._layout.header(name), cursor.pointer, size)
        lines += self._layout.set_valid(name)
        cursor.move(size)
        return lines + after, False

    def _extract_varbit(self, operation: ir.Primitive, cursor: Cursor, indices: dict[str, int]) -> list[str]:
        """Extract a header whose varbit field has a length computed from what is known, in bits."""
        target, length = operation.arguments
        name, after = self._next_header(target, cursor, indices)
        if name is None:
            return ["if (1)", *indent(after)]
        kind = self._program.headers[name].type
        member = kind.varbit
        if member is None:
            raise ir.unsupported(f"extracting {name}, which has no varbit field, by length", operation.source)
        expressions = Expressions(self._layout, operation.source)
        bits = cut(expressions.value(self._resolve(length, indices)), 32)
        room = (member.width + 7) // 8
        ahead, behind = member.offset // 8, (kind.bits - member.offset - member.width) // 8
        place = self._layout.header(name)
        lines = [
            "{",
            f"    __u32 bits = {bits.text};",
            "    if (bits & 7)",
            f"        {self._fail('ParserInvalidArgument', cursor)[0]}",
            f"    if (bits > {member.width})",
            f"        {self._fail('HeaderTooShort', cursor)[0]}",
            "    __u32 size = bits >> 3;",
            "    HIDE(size);",
            f"    if (size > {room})",
            f"        size = {room};",
            f"    if ({cursor.pointer} + {ahead + behind} + size + PADDING > data_end)",
            *indent(self._fail("PacketTooShort", cursor), 2),
            *indent(copy_bytes(place, cursor.pointer, ahead)),
            "    if (size) {",
            "        __u64 some = size;",
            f"        BOUND(some, {room});",
            f"        if (bpf_xdp_load_bytes(ctx, {cursor.code} + {ahead}, {place} + {ahead}, some))",
            *indent(self._fail("PacketTooShort", cursor), 3),
            "    }",
        ]
        if behind:
            end = (member.offset + member.width) // 8
            after_it = f"{cursor.code} + {ahead} + size"
            lines += [
                f"    if (bpf_xdp_load_bytes(ctx, {after_it}, {place} + {end}, {behind}))",
                *indent(self._fail("PacketTooShort", cursor), 2),
            ]
        lines += [
            f"    {self._layout.varbit_length(name)} = size;",
            *indent(self._layout.set_valid(name)),
            f"    {self._layout.offset} = {cursor.code} + {ahead + behind} + size;",
            *indent(after),
            "}",
        ]
        cursor.reload()
        return [*lines, *cursor.declare(self._layout.offset)]

    def _ahead(self, ahead: ir.Lookahead, width: int, cursor: Cursor) -> C:
        """Return C for the lowest `width` (at most 64) bits of a lookahead."""
        first = ahead.offset + ahead.width - width
        start, inside = first // 8, first % 8
        count = (inside + width + 7) // 8
        if count > 8:
            high = self._ahead(ir.Lookahead(first, width - 32), width - 32, cursor)
            low = self._ahead(ir.Lookahead(first + width - 32, 32), 32, cursor)
            return c.binary("|", c.binary("<<", high, c.number(32), 64), low)
        code = c.number(0)
        at, left = start, count
        while left:
            size = next(n for n in (8, 4, 2, 1) if n <= left)
            left -= size
            part = c.place(f"LOAD{8 * size}({cursor.pointer} + {at})", 8 * size)
            code = c.binary("|", code, c.binary("<<", part, c.number(8 * left), 64))
            at += size
        code = c.binary(">>", code, c.number(8 * count - inside - width))
        return c.masked(code, width) if inside else code

    def _lookahead(self, target: ir.FieldRef, ahead: ir.Lookahead, cursor: Cursor) -> list[str]:
        lines = self._need(cursor, (ahead.offset + ahead.width + 7) // 8)
        if not self._layout.stored(target):
            return lines
        width = min(ahead.width, self._program.field(target).width)
        if width <= 64:
            return lines + self._layout.store(target, self._ahead(ahead, width, cursor))
        if width <= MAX_ARITHMETIC:
            high = self._ahead(ir.Lookahead(ahead.offset, ahead.width - 64), width - 64, cursor)
            low = self._ahead(ahead, 64, cursor)
            return lines + self._layout.store(target, c.joined(high, low))
        room = self._layout.bytes_of(target)
        for byte in range((width + 7) // 8):
            bits = min(8, width - 8 * byte)
            end = ahead.width - 8 * byte
            part = self._ahead(ir.Lookahead(ahead.offset, end), bits, cursor)
            lines.append(f"STORE8({room.place} + {room.room - 1 - byte}, {part.text});")
        return lines

    def _advance(self, operation: ir.Primitive, cursor: Cursor, indices: dict[str, int]) -> list[str]:
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
            f"    __u32 bits = {bits.text};",
            f"    if (bits & 7) {self._fail('ParserInvalidArgument', cursor)[0]}",
            "    bits >>= 3;",
            f"    if (bits > 0x3fff || {cursor.pointer} + bits + PADDING > data_end)",
            *indent(self._fail("PacketTooShort", cursor), 2),
            f"    {self._layout.offset} = {cursor.code} + bits;",
            "}",
        ]
        cursor.reload()
        return [*lines, *cursor.declare(self._layout.offset)]

    def _transitions(self, state: ir.ParserState, cursor: Cursor, indices: dict[str, int]) -> Iterator[_Line]:
        widths: list[int] = []
        bits: list[int] = []
        expressions = Expressions(self._layout, state.source)
        names: list[str] = []
        for number, key in enumerate(state.key):
            resolved = self._resolve(key, indices)
            if isinstance(resolved, ir.Lookahead):
                width = resolved.width
                yield from self._need(cursor, (resolved.offset + width + 7) // 8)
            elif isinstance(resolved, ir.FieldRef):
                width = self._program.field(resolved).width
            else:
                raise ir.unsupported("a select on what is no field", state.source)
            if width > 64:
                raise ir.unsupported(f"a select on a field of {width} bits, more than 64,", state.source)
            widths.append((width + 7) // 8 * 8)
            names.append(f"key{number}")
            if isinstance(resolved, ir.Lookahead):
                code = self._ahead(resolved, width, cursor)
            else:
                code = cut(expressions.value(resolved), width)
            kind = "__u64" if width > 32 else "__u32"
            bits.append(width)
            yield f"{kind} key{number} = {code.text};"
        whole = len(names) > 1 and sum(bits) <= 64 and all(t.value_set is None for t in state.transitions)
        if whole:
            # One number, of which clang does not make one test for each field.
            joined, left = c.number(0), sum(bits)
            for name, width in zip(names, bits, strict=True):
                left -= width
                part = c.place(name, 64 if width > 32 else 32)
                joined = c.binary("|", joined, c.binary("<<", part, c.number(left), 64))
            yield f"__u{32 if sum(bits) <= 32 else 64} keys = {joined.text};"
            yield "HIDE(keys);"
        for transition in state.transitions:
            if transition.value_set is not None:
                tests = [self._in_value_set(transition, names, state.source)]
            elif whole:
                tests = self._test_of_all(transition, bits, widths)
            else:
                tests = self._tests(transition, names, widths)
            go = list(self._go(transition.next_state, cursor, indices))
            if tests:
                yield f"if ({' && '.join(tests)}) {{"
                yield from _indent(go)
                yield "}"
            else:
                yield from go
                return
        yield from self._go(None, cursor, indices)

    @staticmethod
    def _test_of_all(transition: ir.Transition, bits: list[int], widths: list[int]) -> list[str]:
        """Return the test of all keys in one number; p4c has each of them in whole bytes."""
        if transition.mask is None:
            return []
        mask = value = 0
        shift = sum(widths)
        for count, width in zip(bits, widths, strict=True):
            shift -= width
            part = (1 << count) - 1
            mask = mask << count | (transition.mask >> shift & part)
            value = value << count | (transition.value >> shift & transition.mask >> shift & part)
        if not mask:
            return []
        total = sum(bits)
        keys = c.place("keys", total)
        under = keys if mask == (1 << total) - 1 else c.binary("&", keys, c.number(mask))
        return [c.compare("==", under, c.number(value)).text]

    def _tests(self, transition: ir.Transition, names: list[str], widths: list[int]) -> list[str]:
        tests: list[str] = []
        if transition.mask is None:
            return tests
        shift = sum(widths)
        for name, width in zip(names, widths, strict=True):
            shift -= width
            mask = transition.mask >> shift & (1 << width) - 1
            value = transition.value >> shift & mask
            key = c.place(name, width)
            under = key if mask == (1 << width) - 1 else c.binary("&", key, c.number(mask))
            if mask:
                tests.append(c.compare("==", under, c.number(value)).text)
        return tests

    def _value_sets(self) -> Iterator[str]:
        """Yield the C of the program's value sets: hash maps of keys, each element in 64 bits."""
        for state in self._program.parser.values():
            for transition in state.transitions:
                if transition.value_set is not None:
                    self._set_sizes.setdefault(transition.value_set, len(state.key))
        for name, count in self._set_sizes.items():
            symbol = self._layout.names("value set", name)
            yield f"/* value set {name} */"
            yield f"struct member_of_{symbol} {{"
            yield f"    __u64 key[{count}];"
            yield "};"
            size = max(self._program.value_sets[name].size, 1)
            yield f"HASH_MAP(value_set_{symbol}, struct member_of_{symbol}, __u32, {size});"
            yield ""

    def _in_value_set(self, transition: ir.Transition, names: list[str], source: ir.Source) -> str:
        """Return C that tells whether a value set has the key of a select."""
        assert transition.value_set is not None
        if self._set_sizes[transition.value_set] != len(names):
            raise ir.unsupported(
                f"value set {transition.value_set} in selects on different numbers of fields", source
            )
        if transition.mask is not None:
            raise ir.unsupported(f"a mask on value set {transition.value_set}", source)
        symbol = self._layout.names("value set", transition.value_set)
        key = f"struct member_of_{symbol} member = {{ {{ {', '.join(names)} }} }};"
        return f"({{ {key} bpf_map_lookup_elem(&value_set_{symbol}, &member) != 0; }})"

    def _go(self, state: str | None, cursor: Cursor, indices: dict[str, int]) -> Iterator[_Line]:
        if state is None:
            yield f"cursor = {cursor.code};"
            yield "goto done;"
            return
        copy = self._copy(state, indices, cursor.offset)
        assert self._current is not None
        self._edges.setdefault(self._current, {})[copy] = None
        if copy.offset is None:
            yield f"{self._layout.offset} = {cursor.code};"
        yield _Jump(self._current, copy, self._fail("ParserTimeout", cursor)[0])


@dataclass(frozen=True, slots=True)
class _Jump:
    """A jump between copies; whether it closes a loop is known when all are there."""

    origin: _Copy
    target: _Copy
    too_often: str
    indent: str = ""


_Line = str | _Jump


def _indent(lines: Iterable[_Line]) -> Iterator[_Line]:
    for line in lines:
        if isinstance(line, _Jump):
            yield replace(line, indent="    " + line.indent)
        else:
            yield "    " + line if line else line


def _indexed(expr: ir.Expr) -> str | None:
    """Return the stack whose next index an expression in a parser state depends on."""
    if isinstance(expr, ir.Named) and expr.kind == "stack":
        return expr.name
    if isinstance(expr, ir.StackField | ir.UnionNext):
        return expr.stack
    return None
