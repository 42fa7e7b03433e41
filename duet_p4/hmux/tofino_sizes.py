"""How large a table of hmux_tna.p4 may become before the program no longer fits a chip: found by compiling.

One table grows, the others stay as they are. What was compiled is committed beside the chip's report
(`largest.json`), try by try, so that a search that ends early goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from duet_p4.hmux import tofino
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.p4c import CompileError

TABLES: Final = ("host_table", "route_table", "pinned_flow_table", "acl_table", "source_table")
"""Tables that may grow by themselves: no field has to grow that counts their entries."""

LARGEST: Final = "largest.json"
FINENESS: Final = 4
"""A search is over when what does not fit is larger than what fits by this part of it at most."""

Tried = dict[int, int | None]
"""Stages in use by the size of the table; None where the compiler finds no way to place it at all."""


def tried(chip: str) -> dict[str, Tried]:
    """Return what was compiled for a chip of these sources, by table."""
    path = tofino.outputs(chip) / LARGEST
    if not path.is_file():
        return {}
    stated = json.loads(path.read_text())
    if stated["digest"] != tofino.digest():
        return {}
    return {
        table: {int(size): stages for size, stages in sizes.items()}
        for table, sizes in stated["stages"].items()
    }


def bounds(sizes: Tried, available: int) -> tuple[int, int | None]:
    """Return the largest size that fits, and the least above it that does not; None where none was tried."""
    fitting = [size for size, stages in sizes.items() if stages is not None and stages <= available]
    most = max(fitting, default=0)
    return most, min((size for size in sizes if size > most and size not in fitting), default=None)


def search(chip: str, table: str, compiled: Callable[[str, str, int], int | None]) -> Iterator[Tried]:
    """Compile with ever other sizes of a table until it is known how large it may be; yield after each.

    `compiled` says how many stages a chip needs for a size of the table. Raises ValueError for a table whose
    size is not free.
    """
    if table not in TABLES:
        raise ValueError(f"{table} cannot grow by itself; these can: {', '.join(TABLES)}")
    report = tofino.resources(chip)
    every = tried(chip)
    sizes = every.setdefault(table, {tofino.schema(chip).tables[table].size: report.stages})
    while (size := _next(*bounds(sizes, report.stages_available))) is not None:
        sizes[size] = compiled(chip, table, size)
        _save(chip, every)
        yield sizes


def stages_with(chip: str, table: str, size: int) -> int | None:
    """Return how many stages a chip needs where a table has another size; None where it cannot be placed.

    Raises FileNotFoundError where the compiler is not on PATH.
    """
    with tempfile.TemporaryDirectory(prefix="duet-sizes-") as scratch:
        folder = Path(scratch) / P4_SOURCES.name
        shutil.copytree(P4_SOURCES, folder, ignore=shutil.ignore_patterns("build"))
        sizes = folder / "include" / "sizes.p4"
        text, changes = re.subn(rf"(#define {table.upper()}_SIZE +)\d+", rf"\g<1>{size}", sizes.read_text())
        assert changes == 1, f"{sizes} has no {table.upper()}_SIZE"
        sizes.write_text(text)
        try:
            return tofino.tried(chip, folder).stages
        except CompileError:
            return None


def _next(fits: int, too_many: int | None) -> int | None:
    """Return which size to try next; None where the bounds are near enough."""
    if not fits:
        return None
    if too_many is None:
        return 2 * fits
    return (fits + too_many) // 2 if too_many - fits > fits // FINENESS else None


def _save(chip: str, every: dict[str, Tried]) -> None:
    stages = {
        table: {str(size): every[table][size] for size in sorted(every[table])} for table in sorted(every)
    }
    path = tofino.outputs(chip) / LARGEST
    path.write_text(json.dumps({"digest": tofino.digest(), "stages": stages}, indent=1) + "\n")
