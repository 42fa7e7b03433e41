"""How long metadata lives: what needs no place in memory, and what need not start as zero.

A field that every action writes before it reads it, and that nothing else looks at, is a variable of the C
function. One that is written on every way to where it is read does not need the zero that P4 starts it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from duet_p4.xdp_switch.compiler import ir

# Reading a register behind its array's end leaves the field as it was.
_WRITES_FIRST = {
    "assign",
    "set",
    "modify_field_with_hash_based_offset",
    "modify_field_rng_uniform",
}
_FIRST_IS_PARSED = {"advance", "shift", "verify", "extract", "extract_VL"}


@dataclass(slots=True)
class _Unit:
    """What an action or parser state needs from before, and what it has surely written at its end."""

    exposed: set[ir.FieldRef] = field(default_factory=set)
    written: set[ir.FieldRef] = field(default_factory=set)
    exits: bool = False


_MAX_STACK = 160
"""Bytes of metadata that may lie on the stack, of which BPF has 512, and lookups and clang want some."""


def written_by_parser(program: ir.Program) -> set[ir.FieldRef]:
    """Return the metadata that parser states write."""
    return {
        step.arguments[0]
        for state in program.parser.values()
        for step in state.operations
        if step.op not in _FIRST_IS_PARSED and step.arguments and isinstance(step.arguments[0], ir.FieldRef)
    }


class Lifetimes:
    """The lifetimes of a program's metadata."""

    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self._units = {number: self._unit(a.primitives) for number, a in program.actions.items()}
        self._states = {name: self._unit(state.operations) for name, state in program.parser.items()}
        self._roots = set(self._looked_at())

    def local(self, reference: ir.FieldRef) -> bool:
        """Tell whether a field is never read but where it has just been written."""
        if not self._is_plain(reference) or reference in self._roots:
            return False
        return all(reference not in unit.exposed for unit in (*self._units.values(), *self._states.values()))

    def fits_stack(self, read: set[ir.FieldRef]) -> bool:
        """Tell whether the metadata that is read can lie on the stack, where no callback has to reach it."""
        program = self._program
        for action in program.actions.values():
            for index, step in enumerate(action.primitives):
                target = step.arguments[-1] if step.op.startswith("_jump") else None
                if isinstance(target, ir.Const) and target.value <= index:
                    return False
        room = 0
        for reference in read:
            if program.headers[reference.header].metadata and not self.local(reference):
                if not self._is_plain(reference) and reference.header != ir.STANDARD_METADATA:
                    return False
                room += (program.field(reference).width + 7) // 8
        return room <= _MAX_STACK

    def cleared(self) -> set[ir.FieldRef]:
        """Return the metadata that something may read before the program has written it."""
        program = self._program
        needed = {f for unit in self._states.values() for f in unit.exposed}
        needed |= {f for state in program.parser.values() for key in state.key for f in _fields(key)}
        for checksum in program.checksums:
            if checksum.verify:
                needed |= {checksum.target, *_fields(checksum.condition), *self._inputs(checksum.calculation)}
        # The parser may end anywhere with an error.
        at_end: set[ir.FieldRef] = set()
        for pipeline in (program.ingress, program.egress):
            at_end = self._control(pipeline, at_end, needed)
            needed |= {ir.FieldRef(ir.STANDARD_METADATA, "egress_spec")} - at_end
        for checksum in program.checksums:
            if checksum.update:
                read = {checksum.target, *_fields(checksum.condition), *self._inputs(checksum.calculation)}
                needed |= read - at_end
        return needed

    def _control(
        self, pipeline: ir.Pipeline, before: set[ir.FieldRef], needed: set[ir.FieldRef]
    ) -> set[ir.FieldRef]:
        """Add to `needed` what a control reads too early; return what is surely written at its end."""
        known: dict[str | None, set[ir.FieldRef]] = {pipeline.start: set(before)}
        pending = [pipeline.start]
        while pending:
            node = pending.pop()
            if node is None:
                continue
            for following, written in self._ways(pipeline, node, known[node]):
                held = known.get(following)
                merged = written if held is None else held & written
                if held is None or merged != held:
                    known[following] = set(merged)
                    pending.append(following)
        for node, written in known.items():
            if node is not None:
                needed |= self._read_at(pipeline, node) - written
        return known.get(None, set(before))

    def _ways(
        self, pipeline: ir.Pipeline, node: str, written: set[ir.FieldRef]
    ) -> Iterator[tuple[str | None, set[ir.FieldRef]]]:
        if node in pipeline.conditionals:
            conditional = pipeline.conditionals[node]
            yield conditional.if_true, written
            yield conditional.if_false, written
            return
        table = pipeline.tables[node]
        following = {*table.next_by_action.values(), table.default_next}
        following |= {*(table.next_hit or ()), *(table.next_miss or ())}
        meter = self._program.meters[table.meter] if table.meter is not None else None
        for number in self._run_by(table):
            unit = self._units[number]
            after = written | unit.written
            if unit.exits:
                yield None, after
                # An exit may stand behind a branch.
                if not self._always_exits(number):
                    yield from ((one, after) for one in following)
            else:
                yield from ((one, after) for one in following)
        if table.default_action is None or meter is not None:
            yield from ((one, written) for one in following)

    def _run_by(self, table: ir.Table) -> set[int]:
        if not table.keys and table.default_const and table.default_action is not None:
            return {table.default_action}
        return {*table.actions, *(() if table.default_action is None else (table.default_action,))}

    def _always_exits(self, number: int) -> bool:
        steps = self._program.actions[number].primitives
        return not any(step.op.startswith("_jump") for step in steps)

    def _read_at(self, pipeline: ir.Pipeline, node: str) -> set[ir.FieldRef]:
        if node in pipeline.conditionals:
            return set(_fields(pipeline.conditionals[node].condition))
        table = pipeline.tables[node]
        read = {f for key in table.keys for f in _fields(key.field)}
        for number in self._run_by(table):
            read |= self._units[number].exposed
        if table.profile is not None:
            read |= {f for e in self._program.profiles()[table.profile].inputs for f in _fields(e)}
        return read

    def _unit(self, steps: Iterable[ir.Primitive]) -> _Unit:
        unit = _Unit()
        certain = True
        for step in steps:
            target = step.arguments[0] if step.arguments else None
            writes = target if step.op in _WRITES_FIRST and isinstance(target, ir.FieldRef) else None
            sources = step.arguments[1:] if writes is not None else step.arguments
            read = {f for argument in sources for f in _fields(argument)}
            for argument in sources:
                if isinstance(argument, ir.Named) and argument.name in self._program.calculations:
                    read |= self._inputs(argument.name)
            if step.op == "execute_meter":
                read |= set(_fields(step.arguments[2]))
            unit.exposed |= read - unit.written
            if step.op.startswith("_jump"):
                certain = False
            if step.op == "exit":
                unit.exits = True
            if writes is not None and certain:
                unit.written.add(writes)
        return unit

    def _inputs(self, calculation: str) -> set[ir.FieldRef]:
        pieces = self._program.calculations[calculation].inputs
        return {f for piece in pieces for f in _fields(piece.value)}

    def _is_plain(self, reference: ir.FieldRef) -> bool:
        header = self._program.headers[reference.header]
        if not header.metadata or reference.header == ir.STANDARD_METADATA:
            return False
        member = header.type.fields[reference.field]
        return not member.varbit and member.width <= 64

    def _looked_at(self) -> Iterator[ir.FieldRef]:
        """Yield what is read elsewhere than in the steps of actions and states, and what loops use."""
        program = self._program
        for state in program.parser.values():
            yield from (f for key in state.key for f in _fields(key))
        for pipeline in (program.ingress, program.egress):
            for node in (*pipeline.tables, *pipeline.conditionals):
                if node in pipeline.conditionals:
                    yield from _fields(pipeline.conditionals[node].condition)
                else:
                    yield from (f for key in pipeline.tables[node].keys for f in _fields(key.field))
            for profile in pipeline.profiles.values():
                yield from (f for value in profile.inputs for f in _fields(value))
        for digest in program.digests.values():
            yield from (f for piece in digest.values for f in _fields(piece.value))
        for fields in program.field_lists.values():
            yield from fields
        for checksum in program.checksums:
            yield checksum.target
            yield from _fields(checksum.condition)
            yield from self._inputs(checksum.calculation)
        for meter in program.meters.values():
            if meter.target is not None:
                yield meter.target
        for action in program.actions.values():
            if any(step.op.startswith("_jump") for step in action.primitives):
                yield from (f for step in action.primitives for a in step.arguments for f in _fields(a))
        for state in program.parser.values():
            for step in state.operations:
                if step.op not in _WRITES_FIRST | _FIRST_IS_PARSED:
                    yield from (f for argument in step.arguments for f in _fields(argument))


def _fields(expr: ir.Expr | None) -> Iterator[ir.FieldRef]:
    return (part for part in ir.inside(expr) if isinstance(part, ir.FieldRef))
