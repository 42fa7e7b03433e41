"""Which fields a program reads: metadata whose value cannot matter is never stored."""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4.xdp_switch.compiler import ir

_WRITES_FIRST = {
    "assign",
    "assign_VL",
    "set",
    "register_read",
    "modify_field_with_hash_based_offset",
    "modify_field_rng_uniform",
}

_GROUP = ir.FieldRef(ir.STANDARD_METADATA, "mcast_grp")


def fields_read(program: ir.Program) -> set[ir.FieldRef]:
    """Return every field whose value can matter, `egress_spec` always among them.

    A field that is read only to set fields that do not matter does not matter itself.
    """
    read = {ir.FieldRef(ir.STANDARD_METADATA, "egress_spec")}
    read.update(_roots(program))
    if multicasts(program):
        read.add(_GROUP)
    writes: list[tuple[ir.FieldRef, set[ir.FieldRef]]] = []
    for primitive in program.primitives():
        target = primitive.arguments[0] if primitive.arguments else None
        if primitive.op not in _WRITES_FIRST or not isinstance(target, ir.FieldRef):
            for argument in primitive.arguments:
                read.update(_fields(argument))
            continue
        sources = {f for argument in primitive.arguments[1:] for f in _fields(argument)}
        if program.headers[target.header].metadata:
            writes.append((target, sources))
        else:
            read |= sources
    grown = True
    while grown:
        before = len(read)
        for target, sources in writes:
            if target in read:
                read |= sources
        grown = len(read) > before
    return read


def multicasts(program: ir.Program) -> bool:
    """Tell whether a program sets a multicast group: simple_switch reads it behind ingress by itself."""
    return any(
        step.op in _WRITES_FIRST
        and step.arguments[:1] == (_GROUP,)
        and not all(isinstance(a, ir.Const) and a.value == 0 for a in step.arguments[1:])
        for step in program.primitives()
    )


def _roots(program: ir.Program) -> Iterator[ir.FieldRef]:
    """Yield the fields that decide about control flow, lookups, hashes and checksums."""
    for state in program.parser.values():
        for key in state.key:
            yield from _fields(key)
    for pipeline in (program.ingress, program.egress):
        for table in pipeline.tables.values():
            yield from (key.field for key in table.keys)
        for conditional in pipeline.conditionals.values():
            yield from _fields(conditional.condition)
        for profile in pipeline.profiles.values():
            for value in profile.inputs:
                yield from _fields(value)
    for calculation in program.calculations.values():
        for piece in calculation.inputs:
            yield from _fields(piece.value)
    for digest in program.digests.values():
        for piece in digest.values:
            yield from _fields(piece.value)
    for fields in program.field_lists.values():
        yield from fields
    for checksum in program.checksums:
        yield checksum.target
        yield from _fields(checksum.condition)


def _fields(expr: ir.Expr | None) -> Iterator[ir.FieldRef]:
    return (part for part in ir.inside(expr) if isinstance(part, ir.FieldRef))
