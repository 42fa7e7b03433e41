"""Primitives on whole headers, unions and stacks, in C."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.expressions import Expressions
from duet_p4.xdp_switch.compiler.layout import Layout, indent, steps


class HeaderPrimitives:
    """Compiles validity, assignment, push and pop; a method `_op` for each primitive `op`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._program = layout.program

    def _on_header(
        self, expressions: Expressions, target: ir.Expr, one: Callable[[str], list[str]]
    ) -> list[str]:
        """Return C that does to a header, or to the element of a stack at run time, what `one` says."""
        if isinstance(target, ir.Element):
            index, names = expressions.elements(target)
            return cases_of(index.text, [one(name) for name in names])
        return one(ir.named(target))

    def _add_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return self._on_header(expressions, primitive.arguments[0], self._make_valid)

    def _make_valid(self, name: str, kept: Sequence[tuple[int, int]] | None = None) -> list[str]:
        """Return C that makes a header valid, with zeros in all or in `kept` (offset, bytes)."""
        header = self._program.headers[name]
        clear = [
            f"STORE{8 * step}({self._layout.header(name)} + {at}, 0);"
            for at, step in (steps(header.type.bytes) if kept is None else kept)
        ]
        if header.type.varbit is not None:
            clear.append(f"{self._layout.varbit_length(name)} = 0;")
        before = [line for rival in header.rivals for line in self._make_invalid(rival)]
        return [
            *before,
            f"if (!{self._layout.valid(name)}) {{",
            *indent(clear),
            *indent(self._layout.set_valid(name)),
            *self._lengthened("+=", name),
            "}",
        ]

    def _remove_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        return self._on_header(expressions, primitive.arguments[0], self._make_invalid)

    def _make_invalid(self, name: str) -> list[str]:
        return [
            f"if ({self._layout.valid(name)}) {{",
            *indent(self._layout.set_invalid(name)),
            *self._lengthened("-=", name),
            "}",
        ]

    def _lengthened(self, operator: str, name: str) -> list[str]:
        if not self._layout.tracks_length:
            return []
        return [f"    s->length {operator} {self._layout.length(name)};"]

    def _assign_header(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = primitive.arguments
        return self._on_header(
            expressions,
            target,
            lambda to: self._on_header(expressions, source, lambda origin: self._move(to, origin)),
        )

    def _move(self, target: str, source: str) -> list[str]:
        if target == source:
            return []
        return [
            f"if ({self._layout.valid(source)}) {{",
            *indent(self._layout.copy(target, source)),
            *indent(self._layout.set_valid(target)),
            "} else {",
            *indent(self._layout.set_invalid(target)),
            "}",
        ]

    def _assign_union(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = (ir.named(a) for a in primitive.arguments)
        return self._move_union(target, source)

    def _move_union(self, target: str, source: str) -> list[str]:
        """Copy a header union: what was valid in the target no longer is, the one of the source is."""
        to, origin = self._program.unions[target].members, self._program.unions[source].members
        lines = [line for name in to.values() for line in self._layout.set_invalid(name)]
        for member, name in to.items():
            lines += [
                f"if ({self._layout.valid(origin[member])}) {{",
                *indent(self._layout.copy(name, origin[member])),
                *indent(self._layout.set_valid(name)),
                "}",
            ]
        return lines if target != source else []

    def _assign_union_stack(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = (self._program.union_stacks[ir.named(a)] for a in primitive.arguments)
        lines = [f"{self._layout.next(target.name)} = {self._layout.next(source.name)};"]
        for to, origin in zip(target.unions, source.unions, strict=True):
            lines += self._move_union(to, origin)
        return lines

    def _assign_header_stack(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        target, source = (self._program.stacks[ir.named(a)] for a in primitive.arguments)
        lines = [f"{self._layout.next(target.name)} = {self._layout.next(source.name)};"]
        for to, origin in zip(target.headers, source.headers, strict=True):
            lines += self._move(to, origin)
        return lines

    def _pop(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name, elements, count = self._stack_and_count(primitive)
        index = self._layout.next(name)
        lines = [f"{index} = {index} > {count} ? {index} - {count} : 0;"]
        for position in range(len(elements)):
            if position + count < len(elements):
                lines += self._move_element(elements[position], elements[position + count])
            else:
                lines += self._clear_element(elements[position])
        return lines

    def _push(self, expressions: Expressions, primitive: ir.Primitive) -> list[str]:
        name, elements, count = self._stack_and_count(primitive)
        size = len(elements)
        index = self._layout.next(name)
        lines = [f"{index} = {index} + {count} < {size} ? {index} + {count} : {size};"]
        for position in reversed(range(size)):
            if position >= count:
                lines += self._move_element(elements[position], elements[position - count])
            else:
                lines += self._clear_element(elements[position])
        return lines

    def _move_element(self, target: str, source: str) -> list[str]:
        return (self._move_union if target in self._program.unions else self._move)(target, source)

    def _clear_element(self, name: str) -> list[str]:
        union = self._program.unions.get(name)
        names = [name] if union is None else union.members.values()
        return [line for one in names for line in self._layout.set_invalid(one)]

    def _stack_and_count(self, primitive: ir.Primitive) -> tuple[str, tuple[str, ...], int]:
        stack, count = primitive.arguments
        if not isinstance(count, ir.Const):
            raise ir.unsupported(
                f"{primitive.op} of a stack by a number known only at run time", primitive.source
            )
        name = ir.named(stack)
        unions = self._program.union_stacks.get(name)
        return name, unions.unions if unions else self._program.stacks[name].headers, count.value


def cases_of(index: str, cases: Sequence[Sequence[str]]) -> list[str]:
    """Return C that runs one of the cases, none where there is none of that number."""
    lines = [f"switch ({index}) {{"]
    for number, case in enumerate(cases):
        lines += [f"case {number}: {{", *indent(case), "    break;", "}"]
    return [*lines, "}"]
