"""How tables are looked up: one module per strategy, the C that finds beside the store that writes.

| strategy | for | what it is |
| --- | --- | --- |
| none | no key | the default action |
| `index` | one exact field of at most 16 bits | an array by key value |
| `hash` | exact fields | a BPF hash map |
| `trie` | one LPM field of at most 32 bits | a 16-bit root, then nibbles |
| `masked` | anything else | a hash map per mask, in one BPF hash map |

`entries.choose` says which one a table gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import Strategy, TableLayout
from duet_p4.xdp_switch.compiler.layout import Layout
from duet_p4.xdp_switch.compiler.lookup.base import Lookup, Store
from duet_p4.xdp_switch.compiler.lookup.hash import HashLookup, HashStore
from duet_p4.xdp_switch.compiler.lookup.index import IndexLookup, IndexStore
from duet_p4.xdp_switch.compiler.lookup.masked import MaskedLookup, MaskedStore
from duet_p4.xdp_switch.compiler.lookup.trie import TrieLookup, TrieStore


class _Sides(NamedTuple):
    lookup: type[Lookup]
    store: type[IndexStore | HashStore | TrieStore | MaskedStore]


_SIDES = {
    Strategy.INDEX: _Sides(IndexLookup, IndexStore),
    Strategy.HASH: _Sides(HashLookup, HashStore),
    Strategy.TRIE: _Sides(TrieLookup, TrieStore),
    Strategy.MASKED: _Sides(MaskedLookup, MaskedStore),
}


def lookup_function(layout: Layout, table: TableLayout) -> Iterator[str]:
    """Yield the C of a table's memory, and of the function that finds its entry."""
    return _SIDES[table.strategy].lookup(layout, table).function()


def make_store(table: TableLayout, loaded: bpf.Object) -> Store | None:
    """Return the store of a table, None for a table without a key."""
    sides = _SIDES.get(table.strategy)
    return sides.store(table, loaded) if sides is not None else None
