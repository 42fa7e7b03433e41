"""Plans: the order in which rows are written, so that traffic never meets a half-written table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Generic, NamedTuple, Protocol, TypeVar

from duet_p4.hmux.rows import Key, Row

RowT = TypeVar("RowT", bound=Row)
Counted = TypeVar("Counted", bound=Row, contravariant=True)


JOINED = "+"
"""Between the labels of steps that are written as one, and so have one time."""


class Op(Enum):
    """What happens to a row; named as in P4Runtime."""

    INSERT = 1
    MODIFY = 2
    DELETE = 3


class Update(NamedTuple, Generic[RowT]):
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


class Count(Protocol[Counted]):
    """What follows from the rows that are held, told of each that comes, and of each that goes."""

    def __call__(self, row: Counted, *, held: bool) -> None:
        """Count a row that is held from now on, or is not any more."""


def note(rows: dict[Key, RowT], updates: Iterable[Update[RowT]], count: Count[RowT]) -> None:
    """Note updates that the switch has taken in `rows`, which it holds."""
    for update in updates:
        row = update.row
        old = rows.pop(row.key, None)
        if old is not None:
            count(old, held=False)
        if update.op is not Op.DELETE:
            rows[row.key] = row
            count(row, held=True)


@dataclass(frozen=True)
class Step(Generic[RowT]):
    """Updates that may be written in any order among themselves; a `whole` one in its own, all or none.

    `label` is the step of the paper's breakdown (section 7.3) that the time is counted for, or several of
    them, joined by `JOINED`; `stage` is its place among all the steps that a plan of its kind may have.
    """

    label: str
    updates: tuple[Update[RowT], ...]
    stage: int = 0
    whole: bool = False


@dataclass(frozen=True)
class Plan(Generic[RowT]):
    """Steps to be written one after the other, each once the one before is done."""

    steps: tuple[Step[RowT], ...]

    @classmethod
    def of(cls, *steps: tuple[str, Iterable[Update[RowT]]]) -> Plan[RowT]:
        """Return a plan of those steps that have any updates."""
        kept = (Step(label, tuple(updates), stage) for stage, (label, updates) in enumerate(steps))
        return cls(tuple(step for step in kept if step.updates))

    @classmethod
    def together(cls, plans: Iterable[Plan[RowT]]) -> Plan[RowT]:
        """Return plans as one, stage by stage; none of them may take what an earlier one frees."""
        stages: dict[int, tuple[str, list[Update[RowT]]]] = {}
        for plan in plans:
            for step in plan.steps:
                stages.setdefault(step.stage, (step.label, []))[1].extend(step.updates)
        return cls(tuple(Step(label, tuple(updates), s) for s, (label, updates) in sorted(stages.items())))

    def inverse(self) -> Iterator[Update[RowT]]:
        """Yield what takes the whole plan back, the last update first."""
        return (update.inverse() for step in reversed(self.steps) for update in reversed(step.updates))

    def inserting_whole(self, most: int) -> Plan[RowT]:
        """Return the same, with the first steps, those that only insert, as a whole one of `most` at most."""
        first = list(takewhile(lambda step: all(u.op is Op.INSERT for u in step.updates), self.steps))
        updates = tuple(update for step in first for update in step.updates)
        if len(first) < 2 or len(updates) > most:
            return self
        label = JOINED.join(dict.fromkeys(step.label for step in first))
        return Plan((Step(label, updates, first[0].stage, whole=True), *self.steps[len(first) :]))

    @property
    def takes(self) -> bool:
        """Whether any entry of a table is taken."""
        return any(update.op is Op.INSERT for update in self)

    @property
    def frees(self) -> bool:
        """Whether any entry of a table becomes free."""
        return any(update.op is Op.DELETE for update in self)

    def __iter__(self) -> Iterator[Update[RowT]]:
        return (update for step in self.steps for update in step.updates)

    def __len__(self) -> int:
        return sum(len(step.updates) for step in self.steps)
