"""Actions in C: each a function on the scratch, its parameters as arguments."""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.expressions import Expressions, Value, cut
from duet_p4.xdp_switch.compiler.layout import Layout, c_type, identifier, indent, steps, storage_width
from duet_p4.xdp_switch.compiler.optimize import DROP_PORT

_REFUSED = {
    "clone_ingress_pkt_to_egress": "clone",
    "clone_egress_pkt_to_egress": "clone",
    "resubmit": "resubmit",
    "recirculate": "recirculate",
    "generate_digest": "digest",
    "execute_meter": "meter",
    "modify_field_rng_uniform": "random",
}


class Actions:
    """Compiles the actions, and the primitives that parser states use too."""

    def __init__(self, layout: Layout, calculations: Calculations) -> None:
        self._layout = layout
        self._program = layout.program
        self._calculations = calculations

    def name(self, action: ir.Action) -> str:
        """Return the C function's name."""
        return f"action_{identifier(action.name)}_{action.id}"

    def exits(self, action: ir.Action) -> bool:
        """Tell whether an action may end its pipeline."""
        return any(p.op == "exit" for p in action.primitives)

    def function(self, action: ir.Action) -> Iterator[str]:
        """Yield the C function of an action; it returns true where the pipeline ends."""
        parameters = tuple(Value(f"p_{identifier(p.name)}", 0, (1 << p.width) - 1) for p in action.parameters)
        for parameter in action.parameters:
            if parameter.width > 128:
                raise ir.unsupported(
                    f"parameter {parameter.name} of {parameter.width} bits, more than 128,", action.source
                )
        arguments = "".join(
            f", {c_type(storage_width(p.width))} {value.code}"
            for p, value in zip(action.parameters, parameters, strict=True)
        )
        yield f"/* action {action.name}, {action.source} */"
        yield f"static __always_inline bool {self.name(action)}(struct scratch *s{arguments})"
        yield "{"
        if self.exits(action):
            yield "    bool exiting = false;"
        targets = {self._jump_target(p) for p in action.primitives if p.op.startswith("_jump")}
        for index, primitive in enumerate(action.primitives):
            if index in targets:
                yield f"step_{index}:;"
            yield from indent(self.primitive(primitive, parameters))
        if len(action.primitives) in targets:
            yield f"step_{len(action.primitives)}:;"
        yield f"    return {'exiting' if self.exits(action) else 'false'};"
        yield "}"
        yield ""

    def primitive(self, primitive: ir.Primitive, parameters: tuple[Value, ...] = ()) -> list[str]:
        """Return the C statements of one primitive; raises UnsupportedError for an unknown one."""
        if primitive.op in _REFUSED:
            raise ir.unsupported(_REFUSED[primitive.op], primitive.source)
        method = getattr(self, f"_{primitive.op.removeprefix('_')}", None)
        if method is None or primitive.op not in _SUPPORTED:
            raise ir.unsupported(f"primitive {primitive.op}", primitive.source)
        expressions = Expressions(self._layout, primitive.source, parameters)
        lines: list[str] = method(expressions, primitive)
        return lines

    def set_field(self, target: ir.FieldRef, expressions: Expressions, value: ir.Expr) -> list[str]:
        """Return the C statements of an assignment to a field."""
        member = self._program.field(target)
        if self._program.headers[target.header].metadata and self._layout.slot(target) is None:
            return []
        if target.header == ir.STANDARD_METADATA and target.field == "mcast_grp" and value != ir.Const(0):
            raise ir.unsupported("multicast (writing mcast_grp)", expressions.source)
        if expressions.is_boolean(value):
            return self._layout.store(target, f"({expressions.condition(value)} ? 1 : 0)")
        return self._layout.store(target, expressions.assignable(value, member.width))

    def _assign(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, value = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("assignment to what is no field", primitive.source)
        if isinstance(value, ir.FieldRef) and self._program.field(value).width > 128:
            return self._copy_wide(target, value, primitive.source)
        return self.set_field(target, expressions, value)

    def _copy_wide(self, target: ir.FieldRef, value: ir.FieldRef, source: ir.Source) -> list[str]:
        to, origin = self._program.field(target), self._program.field(value)
        if to.width != origin.width or to.offset % 8 or origin.offset % 8 or to.width % 8:
            raise ir.unsupported(f"assignment between fields of {to.width} and {origin.width} bits", source)
        return [
            f"STORE8({self._layout.header(target.header)} + {to.offset // 8 + n}, "
            f"LOAD8({self._layout.header(value.header)} + {origin.offset // 8 + n}));"
            for n in range(to.width // 8)
        ]

    def _mark_to_drop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        named = primitive.arguments[0] if primitive.arguments else None
        header = named.name if isinstance(named, ir.Named) else ir.STANDARD_METADATA
        return self._layout.store(ir.FieldRef(header, "egress_spec"), str(DROP_PORT))

    def _drop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return self._mark_to_drop(expressions, primitive)

    def _exit(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return ["exiting = true;"]

    def _no_op(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return []

    def _log_msg(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return []

    def _jump_target(self, primitive: ir.Primitive) -> int:
        target = primitive.arguments[-1]
        if not isinstance(target, ir.Const):
            raise ir.unsupported("a computed jump", primitive.source)
        return target.value

    def _jump(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return [f"goto step_{self._jump_target(primitive)};"]

    def _jump_if_zero(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        condition = primitive.arguments[0]
        if expressions.is_boolean(condition):
            code = f"!{expressions.condition(condition)}"
        else:
            code = f"{expressions.value(condition).code} == 0"
        return [f"if ({code})", f"    goto step_{self._jump_target(primitive)};"]

    def _truncate(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        length = cut(expressions.value(primitive.arguments[0]), 32)
        return [f"s->truncated = s->truncated < {length} ? s->truncated : {length};"]

    def _add_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name = ir.named(primitive.arguments[0])
        header = self._program.headers[name]
        clear = [
            f"STORE{8 * step}({self._layout.header(name)} + {at}, 0);"
            for at, step in steps(header.type.bytes)
        ]
        return [
            f"if (!{self._layout.valid(name)}) {{",
            *indent(clear),
            f"    s->valid |= VALID_{identifier(name)};",
            f"    s->length += {header.type.bytes};",
            "}",
        ]

    def _remove_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name = ir.named(primitive.arguments[0])
        return [
            f"if ({self._layout.valid(name)}) {{",
            f"    s->valid &= ~VALID_{identifier(name)};",
            f"    s->length -= {self._program.headers[name].type.bytes};",
            "}",
        ]

    def _assign_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = (ir.named(a) for a in primitive.arguments)
        return self._move(target, source)

    def _move(self, target: str, source: str) -> list[str]:
        return [
            f"if ({self._layout.valid(source)}) {{",
            *indent(self._layout.copy(target, source)),
            f"    s->valid |= VALID_{identifier(target)};",
            "} else {",
            f"    s->valid &= ~VALID_{identifier(target)};",
            "}",
        ]

    def _assign_header_stack(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = (self._program.stacks[ir.named(a)] for a in primitive.arguments)
        lines = [f"s->{identifier('next_' + target.name)} = s->{identifier('next_' + source.name)};"]
        for to, origin in zip(target.headers, source.headers, strict=True):
            lines += self._move(to, origin)
        return lines

    def _pop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        stack, count = self._stack_and_count(primitive)
        size = len(stack.headers)
        index = f"s->{identifier('next_' + stack.name)}"
        lines = [f"{index} = {index} > {count} ? {index} - {count} : 0;"]
        for position in range(size):
            if position + count < size:
                lines += self._move(stack.headers[position], stack.headers[position + count])
            else:
                lines.append(f"s->valid &= ~VALID_{identifier(stack.headers[position])};")
        return lines

    def _push(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        stack, count = self._stack_and_count(primitive)
        size = len(stack.headers)
        index = f"s->{identifier('next_' + stack.name)}"
        lines = [f"{index} = {index} + {count} < {size} ? {index} + {count} : {size};"]
        for position in reversed(range(size)):
            if position >= count:
                lines += self._move(stack.headers[position], stack.headers[position - count])
            else:
                lines.append(f"s->valid &= ~VALID_{identifier(stack.headers[position])};")
        return lines

    def _stack_and_count(self, primitive: ir.Primitive) -> tuple[ir.Stack, int]:
        stack, count = primitive.arguments
        if not isinstance(count, ir.Const):
            raise ir.unsupported(
                f"{primitive.op} of a stack by a number known only at run time", primitive.source
            )
        return self._program.stacks[ir.named(stack)], count.value

    def _count(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name = ir.named(primitive.arguments[0])
        index = cut(expressions.value(primitive.arguments[1]), 32)
        size = self._program.counters[name].size
        return [f"count_packet(s, {identifier('counter_' + name)}, {size}, {index});"]

    def _register_read(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, array, index = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("reading a register into what is no field", primitive.source)
        register = self._program.registers[ir.named(array)]
        name = identifier("register_" + register.name)
        place = cut(expressions.value(index), 32)
        width = self._program.field(target).width
        value = cut(Value(f"(__u64){name}[at]", 0, (1 << register.width) - 1), width)
        store = self._layout.store(target, value)
        return [
            "{",
            f"    INDEX(at, {place});",
            f"    if (at < {register.size}) {{",
            *indent(store, 2),
            "    }",
            "}",
        ]

    def _register_write(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        array, index, value = primitive.arguments
        register = self._program.registers[ir.named(array)]
        name = identifier("register_" + register.name)
        code = expressions.assignable(value, register.width)
        place = cut(expressions.value(index), 32)
        return [
            "{",
            f"    INDEX(at, {place});",
            f"    if (at < {register.size})",
            f"        {name}[at] = {code};",
            "}",
        ]

    def _modify_field_with_hash_based_offset(
        self, expressions: Expressions, primitive: ir.Primitive
    ) -> list[str]:
        target, base, calculation, size = primitive.arguments
        if not isinstance(target, ir.FieldRef):
            raise ir.unsupported("a hash into what is no field", primitive.source)
        name = ir.named(calculation)
        width = self._calculations.width(name)
        hashed = self._calculations.call(name)
        bound = expressions.value(size)
        start = cut(expressions.value(base), 64)
        kind = "__u32" if max(width, bound.high.bit_length()) <= 32 else "__u64"
        if bound.low == bound.high and bound.low > 0 and bound.low >= 1 << width:
            code = hashed
        elif bound.low == bound.high:
            code = f"(({kind}){hashed} % {max(bound.low, 1)})"
        else:
            divisor = cut(bound, 64)
            code = f"({divisor} ? ({kind}){hashed} % ({kind}){divisor} : 0)"
        if start not in ("0ull", "0"):
            code = f"((__u64){code} + {start})"
        high = max(width, 64 if start not in ("0ull", "0") else 0)
        value = cut(Value(code, 0, (1 << high) - 1), self._program.field(target).width)
        return self._layout.store(target, value)


_SUPPORTED = {
    "assign",
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
