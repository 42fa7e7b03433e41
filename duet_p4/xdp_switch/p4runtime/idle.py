"""Idle timeouts: entries that no packet has hit for as long as their client allowed.

After a notification an entry's timer starts again (P4Runtime specification, "Table Idle Timeout
Notification").
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import EntryKey
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.tables import TableState

SHORTEST, LONGEST = 0.02, 1.0
"""Seconds between two looks at the entries."""


class IdleWatch:
    """Looks which entries of a pipeline are idle, and remembers when that was last told."""

    def __init__(self, state: ForwardingState) -> None:
        self._state = state
        self._told: dict[tuple[int, EntryKey], float] = {}

    def interval(self) -> float | None:
        """Return how long to wait before the next look; None where no table ages."""
        tables = [table for table in self._state.tables.values() if table.table.idle_timeout]
        if not tables:
            return None
        shortest = min(
            (e.idle_timeout_ns for table in tables for e in table.entries.values() if e.idle_timeout_ns),
            default=None,
        )
        return LONGEST / 4 if shortest is None else min(max(shortest / 4e9, SHORTEST), LONGEST)

    def look(self, now: float) -> Iterator[p4r.IdleTimeoutNotification]:
        """Yield a notification for each table with entries that are idle now (seconds of one clock)."""
        told: dict[tuple[int, EntryKey], float] = {}
        for table in self._state.tables.values():
            if table.table.idle_timeout:
                message = p4r.IdleTimeoutNotification()
                for key in self._idle(table, now, told):
                    message.table_entry.append(table.encode_key(key))
                if message.table_entry:
                    message.timestamp = time.time_ns()
                    yield message
        self._told = told

    def _idle(
        self, table: TableState, now: float, told: dict[tuple[int, EntryKey], float]
    ) -> Iterator[EntryKey]:
        keys = [key for key, entry in table.entries.items() if entry.idle_timeout_ns]
        for key, idle in zip(keys, self._state.pipeline.idle_seconds(table.table.name, keys), strict=True):
            last = self._told.get((table.table.id, key), -1e9)
            if min(idle, now - last) >= table.entries[key].idle_timeout_ns / 1e9:
                told[table.table.id, key] = now
                yield key
            elif (table.table.id, key) in self._told:
                told[table.table.id, key] = last
