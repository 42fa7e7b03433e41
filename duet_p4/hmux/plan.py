"""Plans: the order in which rows are written, so that traffic never meets a half-written table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from duet_p4.hmux.rows import Row

RowT = TypeVar("RowT", bound=Row)


class Op(Enum):
    """What happens to a row; named as in P4Runtime."""

    INSERT = 1
    MODIFY = 2
    DELETE = 3


@dataclass(frozen=True, slots=True)
class Update(Generic[RowT]):
    """One row to write. `before` is what the key held: None for an insert, the row itself for a delete."""

    op: Op
    row: RowT
    before: RowT | None = None

    def inverse(self) -> Update[RowT]:
        """Return the update that takes this one back."""
        if self.op is Op.INSERT:
            return Update(Op.DELETE, self.row, self.row)
        if self.op is Op.DELETE:
            return Update(Op.INSERT, self.row)
        assert self.before is not None
        return Update(Op.MODIFY, self.before, self.row)


@dataclass(frozen=True)
class Step(Generic[RowT]):
    """Updates that may be written in any order among themselves.

    `label` is the step of the paper's breakdown (section 7.3) that the time is counted for.
    """

    label: str
    updates: tuple[Update[RowT], ...]


@dataclass(frozen=True)
class Plan(Generic[RowT]):
    """Steps to be written one after the other, each once the one before is done."""

    steps: tuple[Step[RowT], ...]

    @classmethod
    def of(cls, *steps: tuple[str, Iterable[Update[RowT]]]) -> Plan[RowT]:
        """Return a plan of those steps that have any updates."""
        kept = (Step(label, tuple(updates)) for label, updates in steps)
        return cls(tuple(step for step in kept if step.updates))

    def __iter__(self) -> Iterator[Update[RowT]]:
        return (update for step in self.steps for update in step.updates)

    def __len__(self) -> int:
        return sum(len(step.updates) for step in self.steps)


class TableFullError(Exception):
    """A table has no room for what was asked; nothing changed."""

    def __init__(self, table: str, size: int, used: int, asked: int, what: str) -> None:
        super().__init__(
            f"{table} table is full: {what} needs {asked} more, {used} of {size} entries are taken"
        )
        self.table = table


class Pool:
    """The entries [0, size) of an indexed table: which are taken, and which to take next."""

    def __init__(self, table: str, size: int) -> None:
        self._table = table
        self._taken = bytearray(size)
        self.used = 0

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self._taken)

    def mark(self, index: int, *, taken: bool) -> None:
        """Note that an entry is taken, or free again."""
        self.used += taken - self._taken[index]
        self._taken[index] = taken

    def copy(self) -> Pool:
        """Return a pool to try things on."""
        twin = Pool.__new__(Pool)
        twin._table, twin._taken, twin.used = self._table, bytearray(self._taken), self.used
        return twin

    def take(self, what: str) -> int:
        """Take the lowest free entry. Raises `TableFullError`, which says that it is for `what`."""
        return self.take_run(1, what)

    def take_run(self, count: int, what: str) -> int:
        """Take `count` adjacent entries, the lowest that are free, and return the first."""
        first = self._taken.find(bytes(count))
        if first < 0:
            if len(self._taken) - self.used >= count:
                what += f" (free entries are scattered: no {count} of them adjoin)"
            raise TableFullError(self._table, self.size, self.used, count, what)
        self._taken[first : first + count] = b"\x01" * count
        self.used += count
        return first
