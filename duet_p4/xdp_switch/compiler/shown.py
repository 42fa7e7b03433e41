"""How traces show what is a P4 program's: values as wide as their fields, lines, lookups, entries."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from duet_p4.api.trace import Line, Matched, Step
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC
from duet_p4.xdp_switch.dataplane import FieldValue


def hexadecimal(value: int, width: int) -> str:
    """Return a value of `width` bits."""
    return f"0x{value:0{(min(width, 8 * MAX_ARITHMETIC) + 3) // 4}x}"


def line_of(source: ir.Source) -> Line | None:
    """Return where something stands, None where p4c did not say."""
    return Line(file=source.file, line=source.line, text=source.fragment) if source.line else None


def lookup(table: ir.Table, values: Sequence[int], *, hit: bool, wants: Sequence[str] | None = None) -> Step:
    """Return the step of a lookup with `values`; `wants` is what the entry that was hit asks of each."""
    told = zip(table.keys, values, wants or repeat(None), strict=False)
    return Step(
        kind="table",
        name=table.name,
        line=line_of(table.source),
        key=tuple(
            Matched(field=one.name, kind=one.kind, value=hexadecimal(value, one.width), wanted=want)
            for one, value, want in told
        ),
        hit=hit if table.keys else None,
    )


def wanted(value: FieldValue, key: ir.KeyField) -> str:
    """Return what an entry wants of a field."""
    if value is None:
        return "any"
    if isinstance(value, int) and key.kind != "ternary":
        return hexadecimal(value, key.width)
    # An optional field is a ternary one to BMv2, of which all bits matter.
    first, second = (value, (1 << key.width) - 1) if isinstance(value, int) else value
    if key.kind == "ternary" and not second:
        return "any"
    if key.kind == "lpm":
        return f"{hexadecimal(first, key.width)}/{second}"
    between = " .. " if key.kind == "range" else " &&& "
    return hexadecimal(first, key.width) + between + hexadecimal(second, key.width)


def header_order(program: ir.Program) -> list[str]:
    """Return all headers, such as packets have them.

    What is taken off and never put back, as a controller's own header, comes before all else.
    """
    sent = program.deparser
    return [name for name, one in program.headers.items() if not one.metadata and name not in sent] + [*sent]
