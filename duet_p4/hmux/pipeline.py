"""The compiled hmux.p4: p4c's output, committed beside the sources, and what P4Info says of it."""

from __future__ import annotations

import functools
from pathlib import Path

from finsy import P4Schema

P4_SOURCES = Path(__file__).parents[1] / "p4src"
"""The folder of hmux.p4: in the clone a link, in a wheel what it leads to."""

P4INFO = P4_SOURCES / "build" / "hmux.p4info.txtpb"
"""The P4Runtime description of the pipeline."""

DEVICE_CONFIG = P4_SOURCES / "build" / "hmux.json"
"""What a switch runs: BMv2 JSON, on every target."""

CPU_PORT = 510
"""The `--cpu-port` that hmux.p4 is compiled for (types.p4)."""

TABLES = (
    "acl_table",
    "backstop_table",
    "ecmp_table",
    "host_table",
    "nexthop_group_table",
    "nexthop_slot_table",
    "nexthop_table",
    "pinned_flow_table",
    "port_table",
    "punt_table",
    "route_table",
    "source_table",
    "tunneling_table",
)
"""Every table with entries; the configuration is `switch_table`'s default action."""


@functools.cache
def schema() -> P4Schema:
    """Return the pipeline as finsy takes it: P4Info and device config."""
    return P4Schema(P4INFO, DEVICE_CONFIG)


@functools.cache
def sizes() -> dict[str, int]:
    """Return how many entries each table holds, by table name, as P4Info says."""
    tables = schema().tables
    return {name: tables[name].size for name in TABLES}
