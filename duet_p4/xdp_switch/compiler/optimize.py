"""Take out what p4c's BMv2 backend leaves in: copies of copies.

An action that takes `standard_metadata` as an `inout` argument copies all of it in and out again. Within
each action, reads of a copy become reads of the original, and writing a value back to where it came from
becomes nothing; copies nobody reads then vanish because `uses` finds them dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import eq

from duet_p4.xdp_switch.compiler import ir

DROP_PORT = 511
"""BMv2's drop port: an egress_spec of this value drops."""

_NOTHING = "no_op"
_WRITE_FIELD = {"assign", "set", "register_read", "modify_field_with_hash_based_offset"}
_WRITE_HEADER = {"add_header", "remove_header", "assign_header"}
_WRITE_NOTHING = {"count", "register_write", "truncate", "exit", "no_op", "log_msg", "_jump", "_jump_if_zero"}


def optimize(program: ir.Program) -> ir.Program:
    """Return the program with copies within actions propagated."""
    actions = {
        number: replace(action, primitives=tuple(_propagate(program, _lower(program, action.primitives))))
        for number, action in program.actions.items()
    }
    return replace(program, actions=actions)


def _lower(program: ir.Program, primitives: tuple[ir.Primitive, ...]) -> Iterator[ir.Primitive]:
    """Spell out mark_to_drop as assignments, where that keeps the positions jumps refer to."""
    jumps = any(p.op.startswith("_jump") for p in primitives)
    for primitive in primitives:
        if primitive.op != "mark_to_drop" or jumps:
            yield primitive
            continue
        target = primitive.arguments[0]
        name = target.name if isinstance(target, ir.Named) else ir.STANDARD_METADATA
        for field, value in (("egress_spec", DROP_PORT), ("mcast_grp", 0)):
            if field in program.headers[name].type.fields:
                yield ir.Primitive("assign", (ir.FieldRef(name, field), ir.Const(value)), primitive.source)


def _propagate(program: ir.Program, primitives: Iterator[ir.Primitive]) -> Iterator[ir.Primitive]:
    steps = list(primitives)
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
        target = arguments[0] if arguments else None
        if primitive.op in _WRITE_FIELD and isinstance(target, ir.FieldRef):
            value = arguments[1]
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
    return expr


def _copied(program: ir.Program, target: ir.FieldRef, value: ir.Expr) -> ir.FieldRef | ir.Const | None:
    """Return what `target` can be replaced by after `target = value`."""
    field = program.field(target)
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
