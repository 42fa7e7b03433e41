"""Which cells of an array a message means."""

from __future__ import annotations

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.errors import invalid_argument, out_of_range


def cell_indexes(
    message: p4r.CounterEntry | p4r.RegisterEntry | p4r.MeterEntry, name: str, size: int
) -> range:
    """Return one cell, or without an index all; raises INVALID_ARGUMENT, OUT_OF_RANGE."""
    if not message.HasField("index"):
        return range(size)
    index = message.index.index
    if index < 0:
        raise invalid_argument(f"{name}: index {index} is negative")
    if index >= size:
        raise out_of_range(f"{name}: index {index} is not in 0..{size - 1}")
    return range(index, index + 1)
