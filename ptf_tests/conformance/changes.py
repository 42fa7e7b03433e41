"""Changes tables while traffic runs: entries go, come back and get each other's actions."""

from __future__ import annotations

import random
from collections.abc import Iterable

from finsy.proto import p4r

from ptf_tests.conformance.program import State


class Entries:
    """The table entries of a switch; default actions and action profiles stay as they are."""

    def __init__(self, updates: Iterable[p4r.Update]) -> None:
        self._other: list[p4r.Update] = []
        self._present: list[p4r.TableEntry] = []
        self._absent: list[p4r.TableEntry] = []
        for update in updates:
            if update.type == p4r.Update.INSERT and update.entity.HasField("table_entry"):
                self._present.append(update.entity.table_entry)
            else:
                self._other.append(update)

    def updates(self) -> list[p4r.Update]:
        """Return what fills an empty switch so."""
        return [*self._other, *(_update(p4r.Update.INSERT, entry) for entry in self._present)]

    def change(self, rng: random.Random) -> list[p4r.Update]:
        """Delete, insert and modify some entries; return the updates that do so."""
        made = []
        rng.shuffle(self._present)
        gone = self._present[: rng.randrange(len(self._present) // 3 + 1)]
        for entry in gone:
            self._present.remove(entry)
            made.append(_update(p4r.Update.DELETE, entry))
        back = [entry for entry in self._absent if rng.random() < 0.7]
        for entry in back:
            self._absent.remove(entry)
            self._present.append(entry)
            made.append(_update(p4r.Update.INSERT, entry))
        self._absent += gone
        by_table: dict[int, list[p4r.TableEntry]] = {}
        for entry in self._present:
            by_table.setdefault(entry.table_id, []).append(entry)
        for entries in by_table.values():
            for _ in range(rng.randrange(len(entries) // 4 + 1)):
                one, other = rng.choice(entries), rng.choice(entries)
                changed = p4r.TableEntry()
                changed.CopyFrom(one)
                changed.action.CopyFrom(other.action)
                one.CopyFrom(changed)
                made.append(_update(p4r.Update.MODIFY, changed))
        return made


def changed(state: State, rng: random.Random) -> State:
    """Return the state after many changes, with the way that leads there."""
    entries = Entries(_copy(state.updates))
    made = [update for _ in range(5) for update in entries.change(rng)]
    return State(f"{state.name}, changed", (*state.updates, *made))


def _copy(updates: Iterable[p4r.Update]) -> list[p4r.Update]:
    return [p4r.Update.FromString(update.SerializeToString()) for update in updates]


def _update(kind: p4r.Update.Type.ValueType, entry: p4r.TableEntry) -> p4r.Update:
    return p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))
