"""Hands out parts of fixed-size tables, and takes them back once no packet can be using them."""

from __future__ import annotations

import time
from collections import deque

GRACE_S = 0.02
"""How long a released part rests: far longer than the data path takes for a packet."""


class TableFullError(Exception):
    """A table has no room for what was asked; nothing was changed."""

    def __init__(self, table: str, used: int, asked: int, size: int, what: str = "") -> None:
        super().__init__(
            f"{table} table is full: {what or 'this'} needs {asked} more, {used} of {size} entries are taken"
        )
        self.table = table


class Pool:
    """The entries [0, size) of a table: which are taken, which rest, and which to take next."""

    def __init__(self, table: str, size: int) -> None:
        self.table = table
        self.size = size
        self.used = 0
        self._taken = bytearray(size)
        self._lowest = 0
        """No entry below is free."""
        self._resting: deque[tuple[float, int, int]] = deque()

    def allocate(self, count: int = 1, what: str = "") -> int:
        """Take `count` adjacent entries, the lowest that are free, and return the first.

        Raises `TableFullError`, which says that they are for `what`.
        """
        self._wake(time.monotonic())
        first = self._fit(count)
        if first < 0 and self._resting:
            # Rare: the table is nearly full. What rests is free within the grace period.
            time.sleep(max(0.0, self._resting[-1][0] - time.monotonic()))
            self._wake(time.monotonic())
            first = self._fit(count)
        if first < 0:
            if self.size - self.used >= count:
                what = f"{what or 'this'} (free entries are scattered: no {count} of them adjoin)"
            raise TableFullError(self.table, self.used, count, self.size, what)
        self._taken[first : first + count] = b"\x01" * count
        if first == self._lowest:
            self._lowest = first + count
        self.used += count
        return first

    def release(self, first: int, count: int) -> None:
        """Take back entries that packets may be using; they are handed out again after the grace period."""
        self.used -= count
        self._resting.append((time.monotonic() + GRACE_S, first, count))

    def cancel(self, first: int, count: int) -> None:
        """Take back entries that no packet has seen."""
        self.used -= count
        self._free(first, count)

    def mark(self, index: int, *, taken: bool) -> None:
        """Note that an entry is taken, or free again."""
        self.used += taken - self._taken[index]
        if taken:
            self._taken[index] = 1
        else:
            self._free(index, 1)

    def copy(self) -> Pool:
        """Return a pool to try things on."""
        twin = Pool.__new__(Pool)
        twin.table, twin.size, twin.used = self.table, self.size, self.used
        twin._taken, twin._lowest = bytearray(self._taken), self._lowest
        twin._resting = self._resting.copy()
        return twin

    def _fit(self, count: int) -> int:
        first = self._taken.find(bytes(count), self._lowest)
        if count == 1 and first > 0:
            self._lowest = first
        return first

    def _wake(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            _, first, count = self._resting.popleft()
            self._free(first, count)

    def _free(self, first: int, count: int) -> None:
        self._taken[first : first + count] = bytes(count)
        self._lowest = min(self._lowest, first)
