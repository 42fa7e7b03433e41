"""A table that the P4 compiler left out of the pipeline: no packet asks it, so no data plane keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from duet_p4.xdp_switch.dataplane import Call, Count, InitialEntry, MatchValues, TableFullError, TargetAction
from duet_p4.xdp_switch.p4runtime.p4info import Table


class AbsentPipeline:
    """What `dataplane.Pipeline` has for one table, without packets: it counts entries and nothing else."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._counts: dict[tuple[MatchValues, int], Count] = {}

    def initial_entries(self, table: str) -> Sequence[InitialEntry]:
        """Return none: the P4Info does not say them."""
        return []

    def insert(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Add an entry; raises TableFullError beyond the size that the P4Info states."""
        if len(self._counts) >= self._table.size:
            raise TableFullError(f"table {table} is full: it holds {self._table.size} entries")
        self._counts[key, priority] = (0, 0)

    def modify(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Give an entry another action."""

    def delete(self, table: str, key: MatchValues, priority: int) -> None:
        """Remove an entry."""
        del self._counts[key, priority]

    def default_action(self, table: str) -> Call | None:
        """Return the default action that the P4Info states."""
        return self._table.initial_default

    def set_default(self, table: str, action: TargetAction | None) -> None:
        """Set the default action."""

    def read_direct(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[Count]:
        """Return the direct counters of entries."""
        return [self._counts[key] for key in keys]

    def write_direct(self, table: str, key: MatchValues, priority: int, count: Count) -> None:
        """Set the direct counter of an entry."""
        self._counts[key, priority] = count
