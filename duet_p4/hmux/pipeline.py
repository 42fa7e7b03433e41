"""The compiled hmux.p4: p4c's output, committed beside the sources, and what P4Info says of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from finsy import P4Schema

from duet_p4.hmux.rows import Row

P4_SOURCES = Path(__file__).parents[1] / "p4src"
"""The folder of hmux.p4: in the clone a link, in a wheel what it leads to."""

P4INFO = P4_SOURCES / "build" / "hmux.p4info.txtpb"
"""The P4Runtime description of the pipeline."""

DEVICE_CONFIG = P4_SOURCES / "build" / "hmux.json"
"""What a switch runs: BMv2 JSON, on every target."""

CPU_PORT = 510
"""The `--cpu-port` that hmux.p4 is compiled for (types.p4)."""


@functools.cache
def schema() -> P4Schema:
    """Return the pipeline as finsy takes it: P4Info and device config."""
    return P4Schema(P4INFO, DEVICE_CONFIG)


@functools.cache
def sizes() -> dict[str, int]:
    """Return how many entries each table with a key holds, by table name, as P4Info says."""
    return {table.alias: table.size for table in schema().tables if table.match_fields}


def sizes_of(rows: Iterable[type[Row]], of: P4Schema | None = None) -> dict[str, int]:
    """Return how many entries a pipeline, by default hmux.p4, has for each class of rows, by `Row.table`."""
    tables = (of or schema()).tables
    return {row.table: tables[row.P4.table].size for row in rows}
