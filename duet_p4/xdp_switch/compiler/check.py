"""Whether a program is whole: all that it refers to is there, and is what it is taken for.

The reader has checked the shapes; what passes here is compiled without further doubt, so that an error in
the compiler is one, and not the input's.
"""

from __future__ import annotations

import typing
from collections.abc import Container, Iterable
from dataclasses import is_dataclass
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from duet_p4.xdp_switch.compiler import ir

MAX_CELLS = 1 << 24
"""Cells of a counter, register or meter array, entries of a table, members of a profile."""

MAX_BITS = 1 << 16
"""Bits of a field or a parameter that make any sense at all."""

_ARGUMENTS = {
    "assign": 2,
    "assign_VL": 2,
    "assign_header": 2,
    "assign_header_stack": 2,
    "assign_union": 2,
    "assign_union_stack": 2,
    "assert": 1,
    "assume": 1,
    "add_header": 1,
    "remove_header": 1,
    "push": 2,
    "pop": 2,
    "count": 2,
    "register_read": 3,
    "register_write": 3,
    "execute_meter": 3,
    "truncate": 1,
    "_jump": 1,
    "_jump_if_zero": 2,
    "modify_field_with_hash_based_offset": 4,
    "modify_field_rng_uniform": 3,
    "clone_ingress_pkt_to_egress": 2,
    "clone_egress_pkt_to_egress": 2,
    "resubmit": 1,
    "recirculate": 1,
    "generate_digest": 2,
    "extract": 1,
    "extract_VL": 2,
    "set": 2,
    "verify": 2,
    "advance": 1,
    "shift": 1,
}

_BINARY = {"+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "==", "!=", "<", "<=", ">", ">=", "and", "or"}
_UNARY = {"not", "~", "d2b", "b2d", "valid", "valid_union"}


def check(program: ir.Program) -> None:
    """Raise ValueError, naming what is not there or of another type, where a program contradicts itself."""
    _check_types(program, ir.Program, "the program")
    _Check(program).run()


class _Check:
    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self._named: dict[str, Container[object]] = {
            # p4c names a union so where it asks whether an element of a stack of them is valid.
            "header": {*program.headers, *program.unions},
            "regular": program.headers,
            "stack": program.stacks,
            "header_stack": program.stacks,
            "header_union": program.unions,
            "header_union_stack": program.union_stacks,
            "calculation": program.calculations,
            "counter_array": program.counters,
            "register_array": program.registers,
            "meter_array": program.meters,
        }

    def run(self) -> None:
        """Check everything."""
        program = self._program
        for header in program.headers.values():
            for member in header.type.fields.values():
                _require(
                    0 < member.width <= MAX_BITS, f"field {header.name}.{member.name} has {member.width} bits"
                )
        for name in (ir.STANDARD_METADATA,):
            _require(name in program.headers and program.headers[name].metadata, f"there is no {name}")
            fields = program.headers[name].type.fields
            _require("egress_spec" in fields, f"{name} has no egress_spec")
        for stack in program.stacks.values():
            _require(bool(stack.headers), f"stack {stack.name} is empty")
            self._headers(stack.headers, f"stack {stack.name}")
            kinds = {id(program.headers[name].type) for name in stack.headers}
            _require(len(kinds) == 1, f"the elements of stack {stack.name} differ")
        for unions in program.union_stacks.values():
            _require(bool(unions.unions), f"stack {unions.name} is empty")
            members = [tuple(program.unions[name].members) for name in unions.unions]
            _require(len(set(members)) == 1, f"the elements of stack {unions.name} differ")
        self._headers(program.deparser, "the deparser")
        self._parser()
        for action in program.actions.values():
            self._steps(action.primitives, action.name, len(action.parameters), len(action.primitives))
            for parameter in action.parameters:
                known = 0 < parameter.width <= MAX_BITS
                _require(known, f"parameter {parameter.name} of {action.name} has {parameter.width} bits")
        for pipeline in (program.ingress, program.egress):
            self._pipeline(pipeline)
        self._resources()

    def _headers(self, names: Iterable[str], of: str) -> None:
        for name in names:
            known = name in self._program.headers and not self._program.headers[name].metadata
            _require(known, f"{of} has {name}, which is no header")

    def _parser(self) -> None:
        program = self._program
        states = program.parser
        _require(program.parser_start in (None, *states), f"there is no parser state {program.parser_start}")
        for state in states.values():
            self._steps(state.operations, f"parser state {state.name}", 0, -1)
            for key in state.key:
                self._expression(key, f"parser state {state.name}", 0)
            for transition in state.transitions:
                following = transition.next_state
                _require(following in (None, *states), f"there is no parser state {following}")
                known = transition.value_set in (None, *program.value_sets)
                _require(known, f"there is no value set {transition.value_set}")
        for value_set in program.value_sets.values():
            _size(value_set.size, f"value set {value_set.name}")

    def _steps(self, steps: tuple[ir.Primitive, ...], of: str, parameters: int, last: int) -> None:
        for step in steps:
            wanted = _ARGUMENTS.get(step.op)
            if wanted is None:
                continue
            found = len(step.arguments)
            _require(found == wanted, f"{step.op} in {of} has {found} arguments, not {wanted}")
            for argument in step.arguments:
                self._expression(argument, of, parameters)
            if step.op.startswith("_jump"):
                target = step.arguments[-1]
                inside = isinstance(target, ir.Const) and 0 <= target.value <= last
                _require(inside, f"a jump in {of} leads to {target}")

    def _expression(self, whole: ir.Expr, of: str, parameters: int) -> None:
        for expr in ir.inside(whole):
            if isinstance(expr, ir.FieldRef):
                self._field(expr, of)
            elif isinstance(expr, ir.Param):
                _require(0 <= expr.index < parameters, f"{of} has no parameter {expr.index}")
            elif isinstance(expr, ir.Named) and expr.kind in self._named:
                _require(
                    expr.name in self._named[expr.kind], f"{of} has {expr.kind} {expr.name}: there is none"
                )
            elif isinstance(expr, ir.StackField | ir.UnionNext):
                self._stack_member(expr, of)
            elif isinstance(expr, ir.Element):
                _require(expr.stack in self._program.stacks, f"{of} has stack {expr.stack}: there is none")
            elif isinstance(expr, ir.ElementField):
                stack = self._program.stacks.get(expr.element.stack)
                _require(stack is not None, f"{of} has stack {expr.element.stack}: there is none")
                fields = list(self._program.headers[stack.headers[0]].type.fields) if stack else []
                at = expr.field
                known = 0 <= at < len(fields) if isinstance(at, int) else at in (ir.VALID, *fields)
                _require(known, f"{of} has field {expr.field} of {expr.element.stack}: there is none")
            elif isinstance(expr, ir.Op):
                self._operator(expr, of)

    def _operator(self, expr: ir.Op, of: str) -> None:
        """Check that operands are there; which kinds they are of shows when they are compiled."""
        if expr.op in _BINARY:
            unary = expr.op in ("+", "-")
            _require(expr.right is not None and (unary or expr.left is not None), f"{expr.op} in {of} lacks")
        elif expr.op in _UNARY:
            _require(expr.right is not None, f"{expr.op} in {of} lacks an operand")
        elif expr.op == "?":
            present = None not in (expr.left, expr.right, expr.condition)
            _require(present, f"? in {of} lacks an operand")

    def _stack_member(self, expr: ir.StackField | ir.UnionNext, of: str) -> None:
        program = self._program
        if expr.member is not None:
            stack = program.union_stacks.get(expr.stack)
            _require(stack is not None, f"{of} has stack {expr.stack}: there is none")
            members = program.unions[stack.unions[0]].members if stack else {}
            _require(expr.member in members, f"{of} has {expr.stack}.{expr.member}: there is none")
            header = members[expr.member]
        else:
            _require(expr.stack in program.stacks, f"{of} has stack {expr.stack}: there is none")
            header = program.stacks[expr.stack].headers[0]
        if isinstance(expr, ir.StackField):
            fields = program.headers[header].type.fields
            _require(expr.field in ("last", *fields), f"{of} has {expr.stack}.{expr.field}: there is none")

    def _field(self, field: ir.FieldRef, of: str) -> None:
        header = self._program.headers.get(field.header)
        _require(header is not None, f"{of} has {field.header}.{field.field}: there is no {field.header}")
        fields = header.type.fields if header is not None else {}
        known = field.field == ir.VALID and header is not None and not header.metadata
        _require(
            known or field.field in fields, f"{of} has {field.header}.{field.field}: there is no such field"
        )

    def _pipeline(self, pipeline: ir.Pipeline) -> None:
        nodes = (None, *pipeline.tables, *pipeline.conditionals)
        following = [pipeline.start]
        for conditional in pipeline.conditionals.values():
            self._expression(conditional.condition, conditional.name, 0)
            following += [conditional.if_true, conditional.if_false]
        for table in pipeline.tables.values():
            self._table(table, pipeline)
            following += [*table.next_by_action.values(), table.default_next]
            following += [*(table.next_hit or ()), *(table.next_miss or ())]
        for node in following:
            _require(node in nodes, f"{pipeline.name} has no {node}")
        for profile in pipeline.profiles.values():
            _size(profile.size, f"action profile {profile.name}")
            for value in profile.inputs:
                self._expression(value, f"action profile {profile.name}", 0)

    def _table(self, table: ir.Table, pipeline: ir.Pipeline) -> None:
        name, actions = f"table {table.name}", self._program.actions
        _size(table.size, name)
        for key in table.keys:
            self._field(key.field, name)
            _require(key.width > 0, f"key {key.name} of {name} has no bits")
        for number in table.actions:
            _require(number in actions, f"{name} has no action {number}")
        known = table.profile in (None, *pipeline.profiles)
        _require(known, f"{name} has no action profile {table.profile}")
        _require(table.meter in (None, *self._program.meters), f"{name} has no meter {table.meter}")
        if table.default_action is not None:
            _require(table.default_action in actions, f"{name} has no action {table.default_action}")
            self._arguments(table.default_action, table.default_arguments, name)
        for entry in table.entries:
            _require(entry.action_id in table.actions, f"{name} has no action {entry.action_id}")
            self._arguments(entry.action_id, entry.arguments, name)

    def _arguments(self, number: int, given: tuple[int, ...], of: str) -> None:
        action = self._program.actions[number]
        _require(
            len(given) == len(action.parameters)
            and all(0 <= v < 1 << p.width for v, p in zip(given, action.parameters, strict=True)),
            f"{of} calls {action.name} with {given}",
        )

    def _resources(self) -> None:
        program = self._program
        for calculation in program.calculations.values():
            for piece in calculation.inputs:
                self._expression(piece.value, calculation.name, 0)
        for checksum in program.checksums:
            self._field(checksum.target, "a checksum")
            known = checksum.calculation in program.calculations
            _require(known, f"there is no calculation {checksum.calculation}")
            if checksum.condition is not None:
                self._expression(checksum.condition, "a checksum", 0)
        for counter in program.counters.values():
            if counter.table is None:
                _size(counter.size, f"counter {counter.name}")
        for register in program.registers.values():
            _size(register.size, f"register {register.name}")
            _require(register.width > 0, f"register {register.name} has no bits")
        for meter in program.meters.values():
            _size(meter.size, f"meter {meter.name}")
            if meter.target is not None:
                self._field(meter.target, f"meter {meter.name}")
        for digest in program.digests.values():
            for piece in digest.values:
                self._expression(piece.value, f"digest {digest.name}", 0)
        for fields in program.field_lists.values():
            for field in fields:
                self._field(field, "a field list")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a class's members, found once."""
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


def _check_types(value: Any, kind: Any, of: str) -> None:
    """Check that a value, and all in it, has the type that its class states."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        _check_types(value, inner[0], of)
    elif origin in (UnionType, typing.Union):
        found = next((one for one in inner if type(value) is (get_origin(one) or one)), None)
        _require(found is not None, f"{of} is {value!r}")
        _check_types(value, found, of)
    elif origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        _require(type(value) is tuple and len(value) == len(kinds), f"{of} is {value!r}")
        for one, expected in zip(value, kinds, strict=True):
            _check_types(one, expected, of)
    elif origin is dict:
        for key, one in value.items():
            _check_types(key, inner[0], of)
            _check_types(one, inner[1], f"{key} of {of}")
    else:
        _require(type(value) is kind, f"{of} is {value!r}")
        if is_dataclass(kind):
            for name, expected in _hints(type(value)).items():
                _check_types(getattr(value, name), expected, f"{name} of {type(value).__name__.lower()}")


def _size(size: object, of: str) -> None:
    _require(isinstance(size, int) and 0 <= size <= MAX_CELLS, f"{of} has size {size}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"the BMv2 JSON contradicts itself: {problem}")
