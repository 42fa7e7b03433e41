"""One exact field of at most 16 bits: an array by its value.

`index_T[key]` is the entry itself, packed into a word, where it fits one (`entries.Packing`; 0 is none), or
else its place in `entries_T` (0 is none). Packets see either written at once. A place that is left rests, at
the end of the queue of free ones, so that a packet which has just read it still finds the entry there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import c
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.lookup.base import Lookup, Positions, Store, exact, places_of
from duet_p4.xdp_switch.dataplane import EntryKey


class IndexLookup(Lookup):
    """The lookup in C."""

    def function(self) -> Iterator[str]:
        """Yield the C of the table's memory and of its lookup."""
        yield from self.entries()
        yield f"__u{64 if self._table.packing else 32} index_{self._symbol}[{1 << self._table.width}];"
        yield from self.signature()
        mask = c.number((1 << self._table.width) - 1)
        slot = f"index_{self._symbol}[{c.binary('&', self.key_value(0), mask).text}]"
        yield from self.found(slot)


class IndexStore(Store):
    """One exact field, an array by its value."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._packed = layout.packing is not None
        self._start = loaded.place(f"index_{layout.symbol}")[0]
        self._index: Positions = np.frombuffer(
            loaded.memory(f"index_{layout.symbol}"), dtype=np.uint64 if layout.packing else np.uint32
        )
        self._places = places_of(layout, loaded)

    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add entries."""
        self._index[_values(keys)] = self._places.add(data)

    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace entries' bytes."""
        at = _values(keys)
        old = self._index[at]
        self._index[at] = self._places.add(data)
        self._places.remove(old)

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        at = _values(keys)
        old = self._index[at]
        self._index[at] = 0
        self._places.remove(old)

    def words(self, changes: Mapping[EntryKey, bytes | None]) -> dict[int, int]:
        """Return what words change."""
        if not self._packed:
            return super().words(changes)
        return {
            self._start + 8 * exact(key[0][0]): int.from_bytes(data or b"", "little")
            for key, data in changes.items()
        }


def _values(keys: Sequence[EntryKey]) -> list[int]:
    return [exact(key[0][0]) for key in keys]
