"""Which of a table's entries a packet hits, by what they want."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.dataplane import FieldValue, MatchValues


@dataclass(frozen=True)
class Hit:
    """An entry that is hit: what it wants, its priority, and when it was last written (Unix seconds)."""

    match: MatchValues
    priority: int
    at: float | None


def hit_of(
    entries: Collection[tuple[MatchValues, int]], values: Sequence[int], keys: Sequence[ir.KeyField]
) -> tuple[MatchValues, int] | None:
    """Return match and priority of the entry that has the values of a packet, None where none has.

    That is the one with the longest prefix, or else of the highest priority.
    """
    exact = (tuple(values), 0)
    if exact in entries:
        return exact
    hits = [entry for entry in entries if all(map(_has, values, entry[0], keys))]
    return max(hits, key=lambda entry: (_prefix(entry[0], keys), entry[1]), default=None)


def _has(value: int, want: FieldValue, key: ir.KeyField) -> bool:
    if want is None:
        return True
    if isinstance(want, int):
        return value == want
    first, second = want
    if key.kind == "lpm":
        return (value ^ first) >> (key.width - second) == 0
    if key.kind == "range":
        return first <= value <= second
    return value & second == first & second


def _prefix(match: MatchValues, keys: Sequence[ir.KeyField]) -> int:
    lengths = (
        want[1]
        for want, key in zip(match, keys, strict=True)
        if key.kind == "lpm" and isinstance(want, tuple)
    )
    return sum(lengths)
