"""Take out what p4c's BMv2 backend leaves in: copies of copies.

An action that takes `standard_metadata` as an `inout` argument copies all of it in and out again. Within
each action, reads of a copy become reads of the original, and writing a value back to where it came from
becomes nothing; copies nobody reads then vanish because `uses` finds them dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import eq

from duet_p4.xdp_switch.compiler import ir

DROP_PORT = 511
"""BMv2's drop port: an egress_spec of this value drops."""

_NOTHING = "no_op"
_WRITE_FIELD = {
    "assign",
    "assign_VL",
    "set",
    "register_read",
    "modify_field_with_hash_based_offset",
    "modify_field_rng_uniform",
}
_WRITE_HEADER = {"add_header", "remove_header", "assign_header"}
_WRITE_NOTHING = {"count", "register_write", "truncate", "exit", "no_op", "log_msg", "_jump", "_jump_if_zero"}


def optimize(program: ir.Program) -> ir.Program:
    """Return the program with copies within actions propagated."""
    inputs = _Inputs(program)
    actions = {
        number: replace(
            action, primitives=tuple(_propagate(program, _lower(program, action.primitives), inputs))
        )
        for number, action in program.actions.items()
    }
    parser = {
        name: replace(state, operations=tuple(_lower(program, state.operations)))
        for name, state in program.parser.items()
    }
    return replace(program, actions=actions, parser=parser, calculations=inputs.calculations)


class _Inputs:
    """The calculations of a program, of whose inputs copies are taken out where one step alone uses one."""

    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self.calculations = dict(program.calculations)
        self._uses = Counter(
            argument.name
            for step in program.primitives()
            for argument in step.arguments
            if isinstance(argument, ir.Named)
        )
        self._uses.update(checksum.calculation for checksum in program.checksums)

    def propagate(self, step: ir.Primitive, known: dict[ir.FieldRef, ir.FieldRef | ir.Const]) -> None:
        """Replace copies of metadata among the inputs of a step's calculation; headers have a validity."""
        named = step.arguments[2] if step.op == "modify_field_with_hash_based_offset" else None
        if not isinstance(named, ir.Named) or named.name not in self.calculations:
            return
        if self._uses[named.name] > 1:
            return
        calculation = self.calculations[named.name]
        pieces = tuple(
            replace(piece, value=self._original(piece.value, known)) for piece in calculation.inputs
        )
        self.calculations[named.name] = replace(calculation, inputs=pieces)

    def _original(self, value: ir.Expr, known: dict[ir.FieldRef, ir.FieldRef | ir.Const]) -> ir.Expr:
        origin = known.get(value) if isinstance(value, ir.FieldRef) else None
        if not isinstance(origin, ir.FieldRef) or not self._program.headers[origin.header].metadata:
            return value
        return origin


def _lower(program: ir.Program, primitives: tuple[ir.Primitive, ...]) -> list[ir.Primitive]:
    """Spell out mark_to_drop and copies of metadata structs as assignments."""
    steps: list[ir.Primitive] = []
    moved: dict[int, int] = {}
    for position, primitive in enumerate(primitives):
        moved[position] = len(steps)
        steps += _spelled_out(program, primitive)
    moved[len(primitives)] = len(steps)
    return [_jump_moved(step, moved) for step in steps]


def _jump_moved(step: ir.Primitive, moved: dict[int, int]) -> ir.Primitive:
    target = step.arguments[-1] if step.op.startswith("_jump") else None
    if not isinstance(target, ir.Const) or target.value not in moved:
        return step
    return replace(step, arguments=(*step.arguments[:-1], ir.Const(moved[target.value])))


def _spelled_out(program: ir.Program, primitive: ir.Primitive) -> Iterator[ir.Primitive]:
    arguments, source = primitive.arguments, primitive.source
    if primitive.op == "mark_to_drop":
        named = arguments[0] if arguments else None
        name = named.name if isinstance(named, ir.Named) else ir.STANDARD_METADATA
        for field, value in (("egress_spec", DROP_PORT), ("mcast_grp", 0)):
            if field in program.headers[name].type.fields:
                yield ir.Primitive("assign", (ir.FieldRef(name, field), ir.Const(value)), source)
        return
    if primitive.op == "assign_header" and isinstance(arguments[0], ir.Named):
        target = program.headers[arguments[0].name]
        if target.metadata and isinstance(arguments[1], ir.Named):
            for member in target.type.fields.values():
                copied = ir.FieldRef(target.name, member.name), ir.FieldRef(arguments[1].name, member.name)
                yield ir.Primitive("assign_VL" if member.varbit else "assign", copied, source)
            return
    yield primitive


def _propagate(program: ir.Program, steps: list[ir.Primitive], inputs: _Inputs) -> Iterator[ir.Primitive]:
    targets = {
        p.arguments[-1].value
        for p in steps
        if p.op.startswith("_jump") and isinstance(p.arguments[-1], ir.Const)
    }
    known: dict[ir.FieldRef, ir.FieldRef | ir.Const] = {}
    for index, primitive in enumerate(steps):
        if index in targets:
            known.clear()
        written = 1 if primitive.op in _WRITE_FIELD else 0
        arguments = primitive.arguments[:written] + tuple(
            _substitute(a, known) for a in primitive.arguments[written:]
        )
        primitive = replace(primitive, arguments=arguments)
        inputs.propagate(primitive, known)
        target = arguments[0] if arguments else None
        if primitive.op in _WRITE_FIELD and isinstance(target, ir.FieldRef):
            value = arguments[1] if len(arguments) > 1 else target
            if primitive.op == "assign" and value == target:
                yield ir.Primitive(_NOTHING, (), primitive.source)
                continue
            _forget(known, partial(eq, target))
            if primitive.op == "assign":
                kept = _copied(program, target, value)
                if kept is not None:
                    known[target] = kept
        elif primitive.op in _WRITE_HEADER and isinstance(target, ir.Named):
            _forget(known, partial(_belongs, target.name))
        elif primitive.op not in _WRITE_NOTHING:
            known.clear()
        yield primitive


def _belongs(header: str, field: ir.FieldRef) -> bool:
    return field.header == header


def _substitute(expr: ir.Expr, known: dict[ir.FieldRef, ir.FieldRef | ir.Const]) -> ir.Expr:
    if isinstance(expr, ir.FieldRef):
        return known.get(expr, expr)
    if isinstance(expr, ir.Op):
        left, right, condition = (
            None if part is None else _substitute(part, known)
            for part in (expr.left, expr.right, expr.condition)
        )
        return ir.Op(expr.op, left, right, condition)
    if isinstance(expr, ir.Element):
        return ir.Element(expr.stack, _substitute(expr.index, known))
    if isinstance(expr, ir.ElementField):
        return ir.ElementField(
            ir.Element(expr.element.stack, _substitute(expr.element.index, known)), expr.field
        )
    return expr


def _copied(program: ir.Program, target: ir.FieldRef, value: ir.Expr) -> ir.FieldRef | ir.Const | None:
    """Return what `target` can be replaced by after `target = value`."""
    field = program.field(target)
    if field.varbit:
        return None
    if isinstance(value, ir.Const) and not field.signed:
        return ir.Const(value.value & (1 << field.width) - 1)
    if isinstance(value, ir.FieldRef) and value.field != ir.VALID:
        origin = program.field(value)
        if (origin.width, origin.signed) == (field.width, field.signed):
            return value
    return None


def _forget(known: dict[ir.FieldRef, ir.FieldRef | ir.Const], changed: Callable[[ir.FieldRef], bool]) -> None:
    """Drop what is known of changed fields, and of copies of them."""
    for copy, origin in list(known.items()):
        if changed(copy) or (isinstance(origin, ir.FieldRef) and changed(origin)):
            del known[copy]
