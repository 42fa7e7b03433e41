"""Actions in C: each a function on the scratch, its parameters as arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.expressions import Expressions, Value, cut
from duet_p4.xdp_switch.compiler.header_primitives import HeaderPrimitives, cases_of
from duet_p4.xdp_switch.compiler.layout import (
    MAX_ARITHMETIC,
    Layout,
    c_type,
    copy_bytes,
    indent,
    storage_width,
)
from duet_p4.xdp_switch.compiler.optimize import DROP_PORT
from duet_p4.xdp_switch.compiler.replication import Replication

_CALLS_KERNEL = {"count", "execute_meter", "modify_field_rng_uniform"}

MAX_STEPS = 1 << 20
"""Jumps back that one run of an action with loops may take: BPF's own limit is not far above."""


class Actions(HeaderPrimitives):
    """Compiles the actions, and the primitives that parser states use too."""

    def __init__(self, layout: Layout, calculations: Calculations, replication: Replication) -> None:
        super().__init__(layout)
        self._calculations = calculations
        self._replication = replication

    def name(self, action: ir.Action) -> str:
        """Return the C function's name."""
        return f"action_{self._layout.names('action', action.name)}_{action.id}"

    def exits(self, action: ir.Action) -> bool:
        """Tell whether an action may end its pipeline."""
        return any(p.op == "exit" for p in action.primitives)

    def always_exits(self, action: ir.Action) -> bool:
        """Tell whether an action ends its pipeline whichever way it takes."""
        return self.exits(action) and not any(p.op.startswith("_jump") for p in action.primitives)

    def function(self, action: ir.Action) -> Iterator[str]:
        """Yield the C function of an action; it returns true where the pipeline ends."""
        names = self._layout.names
        parameters = tuple(
            Value(
                c.place(f"p_{names(f'parameter of {action.id}', p.name)}", storage_width(p.width)),
                0,
                (1 << p.width) - 1,
            )
            for p in action.parameters
        )
        declared = [
            f"{c_type(storage_width(p.width))} {value.code}"
            for p, value in zip(action.parameters, parameters, strict=True)
        ]
        yield f"/* action {action.name}, {action.source} */"
        targets = {self._jump_target(p) for p in action.primitives if p.op.startswith("_jump")}
        if any(
            p.op.startswith("_jump") and self._jump_target(p) <= index
            for index, p in enumerate(action.primitives)
        ):
            yield from self._looping(action, parameters, declared, targets)
            return
        arguments = "".join(f", {one}" for one in declared)
        yield f"static __always_inline bool {self.name(action)}(struct scratch *s{arguments})"
        yield "{"
        yield from indent(self._layout.variables(action.primitives))
        yield from indent(self._layout.tracing.action(action, [value.code.text for value in parameters]))
        if self.exits(action):
            yield "    bool exiting = false;"
        locked = self.locked(action)
        if locked:
            yield "    struct register_lock *registers = find_register_lock();"
            yield "    if (!registers)"
            yield "        return false;"
        whole = self.header_writes(action.primitives, parameters) if not targets and not locked else {}
        for index, primitive in enumerate(action.primitives):
            if index in targets:
                yield f"step_{index}:;"
            if locked and index == locked.start:
                yield "    bpf_spin_lock(&registers->lock);"
            if locked and index == locked.stop:
                yield "    bpf_spin_unlock(&registers->lock);"
            lines = whole.get(index)
            yield from indent(self.primitive(primitive, parameters) if lines is None else lines)
        if len(action.primitives) in targets:
            yield f"step_{len(action.primitives)}:;"
        if locked and locked.stop == len(action.primitives):
            yield "    bpf_spin_unlock(&registers->lock);"
        yield f"    return {'exiting' if self.exits(action) else 'false'};"
        yield "}"
        yield ""

    def header_writes(
        self, steps: Sequence[ir.Primitive], parameters: tuple[Value, ...]
    ) -> dict[int, list[str]]:
        """Return C for steps that fill in a header together: whole words of it are written at once.

        A word that a few fields make up is put together in a register, so that it can be loaded as one later.
        """
        found: dict[int, list[str]] = {}
        start = 0
        while start < len(steps):
            run = list(self._fills(steps, start))
            if len(run) > 1:
                header = run[0][0].header
                lines, rest = self._filled(header, run, parameters)
                before = steps[start - 1] if start else None
                if (
                    before is not None
                    and before.op == "add_header"
                    and before.arguments == (ir.Named("header", header),)
                ):
                    found[start - 1] = self._make_valid(header, rest)
                found |= {start: lines} | {start + n: [] for n in range(1, len(run))}
            start += max(len(run), 1)
        return found

    def _fills(self, steps: Sequence[ir.Primitive], start: int) -> Iterator[tuple[ir.FieldRef, ir.Primitive]]:
        """Yield the assignments from a step on to one header's fields, of values that do not depend on it."""
        header = None
        for step in steps[start:]:
            target = step.arguments[0] if step.arguments else None
            if step.op != "assign" or not isinstance(target, ir.FieldRef):
                return
            kind = self._program.headers[target.header]
            if header not in (None, target.header) or kind.metadata or kind.type.varbit is not None:
                return
            if self._program.field(target).width > 64:
                return
            for part in ir.inside(step.arguments[1]):
                if isinstance(part, ir.FieldRef):
                    if part.header == target.header:
                        return
                elif isinstance(part, ir.Element | ir.ElementField | ir.Named):
                    return
            header = target.header
            yield target, step

    def _filled(
        self, header: str, run: Sequence[tuple[ir.FieldRef, ir.Primitive]], parameters: tuple[Value, ...]
    ) -> tuple[list[str], list[tuple[int, int]]]:
        """Return C for the assignments of a run, and the (offset, bytes) of the header that it leaves."""
        kind = self._program.headers[header].type
        last = {target.field: step for target, step in run}
        lines: list[str] = []
        rest: list[tuple[int, int]] = []
        done: set[str] = set()
        pending = [(at, size) for at, size in self._layout.cells(header)]
        while pending:
            at, size = pending.pop(0)
            inside = [
                m for m in kind.fields.values() if m.offset < 8 * (at + size) and m.offset + m.width > 8 * at
            ]
            fits = all(m.offset >= 8 * at and m.offset + m.width <= 8 * (at + size) for m in inside)
            if fits and all(m.name in last for m in inside) and not any(m.name in done for m in inside):
                whole = c.number(0)
                for member in inside:
                    code = self._value_of(last[member.name], member.width, parameters)
                    shift = c.number(8 * (at + size) - member.offset - member.width)
                    whole = c.binary("|", whole, c.binary("<<", code, shift, 64))
                lines.append(f"STORE{8 * size}({self._layout.header(header)} + {at}, {whole.text});")
                done |= {m.name for m in inside}
            elif size > 1:
                pending[:0] = [(at, size // 2), (at + size // 2, size // 2)]
            else:
                rest.append((at, size))
        for name, step in last.items():
            if name not in done:
                lines += self.primitive(step, parameters)
        return lines, rest

    def _value_of(self, step: ir.Primitive, width: int, parameters: tuple[Value, ...]) -> C:
        return Expressions(self._layout, step.source, parameters).assignable(step.arguments[1], width)

    def locked(self, action: ir.Action) -> range | None:
        """Return the steps of an action that no other CPU's steps on registers may come between.

        They are those from its first to its last on a register, where it both reads and writes. None where
        it does not, and where a step between them calls the kernel, which a lock does not allow.
        """
        steps = action.primitives
        at = [n for n, p in enumerate(steps) if p.op in ("register_read", "register_write")]
        if {steps[n].op for n in at} != {"register_read", "register_write"}:
            return None
        first, last = at[0], at[-1] + 1
        for index, step in enumerate(steps):
            if not step.op.startswith("_jump"):
                continue
            target = self._jump_target(step)
            if target <= index:
                return None
            inside, lands = first <= index < last, first < target <= last
            if (inside and target > last) or (lands and not inside):
                first, last = 0, len(steps)
        if any(step.op in _CALLS_KERNEL for step in steps[first:last]):
            return None
        return range(first, last)

    def _looping(
        self, action: ir.Action, parameters: tuple[Value, ...], declared: list[str], targets: set[int]
    ) -> Iterator[str]:
        """Yield the C of an action with loops: bpf_loop runs it from one jump back to the next.

        So the verifier sees each step once, however often it is taken.
        """
        name, last = self.name(action), len(action.primitives)
        yield f"struct frame_of_{name} {{"
        yield "    struct scratch *s;"
        yield "    __u32 step;"
        yield "    bool exiting;"
        for one in declared:
            yield f"    {one};"
        yield "};"
        yield f"static long steps_of_{name}(__u32 round, struct frame_of_{name} *frame)"
        yield "{"
        yield "    struct scratch *s = frame->s;"
        yield "    bool exiting = frame->exiting;"
        for one, value in zip(declared, parameters, strict=True):
            yield f"    {one} = frame->{value.code};"
        back = sorted(
            {
                self._jump_target(p)
                for index, p in enumerate(action.primitives)
                if p.op.startswith("_jump") and self._jump_target(p) <= index
            }
        )
        yield "    switch (frame->step) {"
        for target in back:
            yield f"    case {target + 1}:"
            yield f"        goto step_{target};"
        yield "    }"
        for index, primitive in enumerate(action.primitives):
            if index in targets:
                yield f"step_{index}:;"
            lines = self.primitive(primitive, parameters)
            if primitive.op.startswith("_jump") and (target := self._jump_target(primitive)) <= index:
                lines = [f"    {{ frame->step = {target + 1}; goto again; }}"]
                if primitive.op == "_jump_if_zero":
                    lines.insert(0, self.primitive(primitive, parameters)[0])
            yield from indent(lines)
        yield f"step_{last}:;"
        yield "    frame->exiting = exiting;"
        yield "    return 1;"
        yield "again:"
        yield "    frame->exiting = exiting;"
        yield "    return 0;"
        yield "}"
        arguments = "".join(f", {one}" for one in declared)
        yield f"static __always_inline bool {name}(struct scratch *s{arguments})"
        yield "{"
        yield f"    struct frame_of_{name} frame = {{ .s = s }};"
        yield from indent(self._layout.tracing.action(action, [value.code.text for value in parameters]))
        for value in parameters:
            yield f"    frame.{value.code} = {value.code};"
        yield f"    bpf_loop({MAX_STEPS}, steps_of_{name}, &frame, 0);"
        yield "    return frame.exiting;"
        yield "}"
        yield ""

    def primitive(self, primitive: ir.Primitive, parameters: tuple[Value, ...] = ()) -> list[str]:
        """Return the C statements of one primitive; raises UnsupportedError for an unknown one."""
        method = getattr(self, f"_{primitive.op.removeprefix('_')}", None)
        if method is None or primitive.op not in _SUPPORTED:
            raise ir.unsupported(f"primitive {primitive.op}", primitive.source)
        expressions = Expressions(self._layout, primitive.source, parameters)
        lines: list[str] = method(expressions, primitive)
        return lines

    def set_field(self, target: ir.FieldRef, expressions: Expressions, value: ir.Expr) -> list[str]:
        """Return the C statements of an assignment to a field."""
        member = self._program.field(target)
        if not self._layout.stored(target):
            return []
        if member.varbit or member.width > MAX_ARITHMETIC:
            return self._copy_wide(target, value, expressions.source)
        named = expressions.name_repeated(value)
        stored = self._layout.store(target, expressions.assignable(value, member.width))
        return ["{", *indent([*named, *stored]), "}"] if named else stored

    def _assign(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, value = primitive.arguments
        if isinstance(target, ir.ElementField):
            fields = expressions.fields_of(target)
            cases = [self.set_field(field, expressions, value) for field in fields]
            return cases_of(expressions.elements(target.element)[0].text, cases)
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("assignment to what is no field", primitive.source)
        return self.set_field(target, expressions, value)

    def _assign_VL(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:  # noqa: N802
        return self._assign(expressions, primitive)

    def _copy_wide(self, target: ir.FieldRef, value: ir.Expr, source: ir.Source) -> list[str]:
        """Return C that copies a field of whole bytes which is no number in C."""
        to = self._program.field(target)
        place = self._layout.bytes_of(target)
        if isinstance(value, ir.Const):
            data = value.value.to_bytes(place.room, "big")
            return [f"STORE8({place.place} + {n}, {byte:#x});" for n, byte in enumerate(data)]
        if not isinstance(value, ir.FieldRef):
            raise ir.unsupported(f"a value of {to.width} bits that is no field,", source)
        origin = self._program.field(value)
        if to.varbit != origin.varbit or (to.width != origin.width and not to.varbit):
            raise ir.unsupported(f"assignment between fields of {to.width} and {origin.width} bits", source)
        if not to.varbit and origin.width <= MAX_ARITHMETIC:
            raise ir.unsupported(f"assignment to a field of {to.width} bits", source)
        given = self._layout.bytes_of(value)
        room = min(place.room, given.room)
        lines = copy_bytes(place.place, given.place, room)
        if to.varbit:
            lines.append(f"{place.length} = {given.length} < {room} ? {given.length} : {room};")
        return lines

    def _mark_to_drop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        named = primitive.arguments[0] if primitive.arguments else None
        header = named.name if isinstance(named, ir.Named) else ir.STANDARD_METADATA
        return self._layout.store(ir.FieldRef(header, "egress_spec"), c.number(DROP_PORT))

    def _drop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return self._mark_to_drop(expressions, primitive)

    def _exit(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return ["exiting = true;"]

    def _no_op(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return []

    def _log_msg(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return []

    def _assert(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        fails = c.negation(expressions.condition(primitive.arguments[0]))
        return [f"if ({fails.text})", "    s->m.failed = DROP_ASSERTION;"]

    def _assume(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return self._assert(expressions, primitive)

    def _clone_ingress_pkt_to_egress(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        codes = [cut(expressions.value(a), 32).text for a in primitive.arguments]
        return self._replication.primitive(primitive.op, codes)

    _clone_egress_pkt_to_egress = _clone_ingress_pkt_to_egress
    _resubmit = _clone_ingress_pkt_to_egress
    _recirculate = _clone_ingress_pkt_to_egress

    def _generate_digest(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return [f"s->m.digest = {cut(expressions.value(primitive.arguments[1]), 32).text};"]

    def _execute_meter(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        array, index, target = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("the colour of a meter into what is no field", primitive.source)
        meter = self._program.meters[ir.named(array)]
        colour = Value(self.colour(meter, cut(expressions.value(index), 32)), 0, 2)
        store = self._layout.store(target, cut(colour, self._program.field(target).width))
        # Metering takes tokens, whether or not something looks at the colour.
        return store or [f"{colour.code};"]

    def colour(self, meter: ir.MeterArray, index: C) -> C:
        """Return the C expression that meters the packet."""
        units = "s->received" if meter.counts_bytes else "1"
        name = f"meter_{self._layout.names('meter', meter.name)}"
        return c.place(f"meter_colour(&{name}, {index.text}, {units})", 32)

    def _modify_field_rng_uniform(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, low, high = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("a random number into what is no field", primitive.source)
        if not self._layout.stored(target):
            return []
        first, last = (cut(expressions.value(bound), 64) for bound in (low, high))
        width = min(self._program.field(target).width, 64)
        drawn = c.place(f"random_between({first.text}, {last.text})", 64)
        drawn = cut(Value(drawn, 0, (1 << 64) - 1), width)
        return self._layout.store(target, drawn)

    def _jump_target(self, primitive: ir.Primitive) -> int:
        target = primitive.arguments[-1]
        if not isinstance(target, ir.Const):
            raise ir.unsupported("a computed jump", primitive.source)
        return target.value

    def _jump(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return [f"goto step_{self._jump_target(primitive)};"]

    def _jump_if_zero(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        condition = primitive.arguments[0]
        code = c.negation(expressions.condition(condition))
        return [f"if ({code.text})", f"    goto step_{self._jump_target(primitive)};"]

    def _truncate(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        length = cut(expressions.value(primitive.arguments[0]), 32)
        return [f"s->truncated = s->truncated < {length} ? s->truncated : {length};"]

    def _count(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name = ir.named(primitive.arguments[0])
        index = cut(expressions.value(primitive.arguments[1]), 32)
        size = self._program.counters[name].size
        return [f"count_packet(s, counter_{self._layout.names('counter', name)}, {size}, {index.text});"]

    def _register_read(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, array, index = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("reading a register into what is no field", primitive.source)
        register = self._program.registers[ir.named(array)]
        if not self._layout.stored(target):
            return []
        name = f"register_{self._layout.names('register', register.name)}"
        place = cut(expressions.value(index), 32)
        width = self._program.field(target).width
        cell = c.place(f"{name}[at]", storage_width(register.width))
        value = cut(Value(cell, 0, (1 << register.width) - 1), width)
        store = self._layout.store(target, value)
        return [
            "{",
            f"    INDEX(at, {place.text});",
            f"    if (at < {register.size}) {{",
            *indent(store, 2),
            "    }",
            "}",
        ]

    def _register_write(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        array, index, value = primitive.arguments
        register = self._program.registers[ir.named(array)]
        name = f"register_{self._layout.names('register', register.name)}"
        code = expressions.assignable(value, register.width)
        place = cut(expressions.value(index), 32)
        return [
            "{",
            f"    INDEX(at, {place.text});",
            f"    if (at < {register.size})",
            f"        {name}[at] = {code.text};",
            "}",
        ]

    def _modify_field_with_hash_based_offset(
        self, expressions: Expressions, primitive: ir.Primitive
    ) -> list[str]:
        target, base, calculation, size = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("a hash into what is no field", primitive.source)
        if not self._layout.stored(target):
            return []
        name = ir.named(calculation)
        width = self._calculations.width(name)
        code = self._calculations.call(name)
        bound = expressions.value(size)
        start = cut(expressions.value(base), 64)
        bits = 32 if max(width, bound.high.bit_length()) <= 32 else 64
        if bound.low != bound.high:
            divisor = cut(bound, 64)
            rest = c.binary("%", c.cast(code, bits), c.cast(divisor, bits))
            code = c.choice(divisor, rest, c.number(0))
        elif not 0 < 1 << width <= bound.low:
            code = c.binary("%", c.cast(code, bits), c.number(max(bound.low, 1)))
        code = c.binary("+", code, start, 64 if start.number != 0 else c.INT)
        high = max(width, 64 if start.number != 0 else 0)
        value = cut(Value(code, 0, (1 << high) - 1), self._program.field(target).width)
        return self._layout.store(target, value)


_SUPPORTED = {
    "assign",
    "assign_VL",
    "assign_union",
    "assign_union_stack",
    "assert",
    "assume",
    "modify_field_rng_uniform",
    "clone_ingress_pkt_to_egress",
    "clone_egress_pkt_to_egress",
    "resubmit",
    "recirculate",
    "generate_digest",
    "execute_meter",
    "mark_to_drop",
    "drop",
    "exit",
    "no_op",
    "log_msg",
    "_jump",
    "_jump_if_zero",
    "truncate",
    "add_header",
    "remove_header",
    "assign_header",
    "assign_header_stack",
    "pop",
    "push",
    "count",
    "register_read",
    "register_write",
    "modify_field_with_hash_based_offset",
}
