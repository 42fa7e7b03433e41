"""Hands out parts of fixed-size tables, and takes them back once no packet can be using them."""

from __future__ import annotations

import bisect
import time
from collections import deque

GRACE_S = 0.02
"""How long a released part rests: far longer than the data path takes for a packet."""


class TableFullError(Exception):
    """A table of a data path has no room; nothing was changed."""

    def __init__(self, table: str, used: int, wanted: int, size: int) -> None:
        super().__init__(f"table {table} has no room for {wanted} more: {used} of {size} entries are used")


class RangeAllocator:
    """Contiguous ranges of a table, first fit."""

    def __init__(self, table: str, size: int) -> None:
        self.table = table
        self.size = size
        self.used = 0
        self._free: list[tuple[int, int]] = [(0, size)] if size else []
        self._resting: deque[tuple[float, int, int]] = deque()

    def allocate(self, count: int) -> int:
        """Return the first of `count` free indices in a row; TableFullError where there are none."""
        self._wake(time.monotonic())
        first = self._fit(count)
        if first is None and self._resting:
            # Rare: the table is nearly full. What rests is free within the grace period.
            time.sleep(max(0.0, self._resting[-1][0] - time.monotonic()))
            self._wake(time.monotonic())
            first = self._fit(count)
        if first is None:
            raise TableFullError(self.table, self.used, count, self.size)
        self.used += count
        return first

    def release(self, first: int, count: int) -> None:
        """Take back a range that was published; it is handed out again after the grace period."""
        self.used -= count
        self._resting.append((time.monotonic() + GRACE_S, first, count))

    def cancel(self, first: int, count: int) -> None:
        """Take back a range that no packet has seen."""
        self.used -= count
        self._insert(first, count)

    def _fit(self, count: int) -> int | None:
        for index, (first, room) in enumerate(self._free):
            if room >= count:
                if room == count:
                    del self._free[index]
                else:
                    self._free[index] = (first + count, room - count)
                return first
        return None

    def _wake(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            _, first, count = self._resting.popleft()
            self._insert(first, count)

    def _insert(self, first: int, count: int) -> None:
        index = bisect.bisect(self._free, (first, count))
        if index < len(self._free) and first + count == self._free[index][0]:
            count += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == first:
            before, room = self._free[index - 1]
            self._free[index - 1] = (before, room + count)
        else:
            self._free.insert(index, (first, count))
