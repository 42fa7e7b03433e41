"""Words of memory that a detour writes do to lookups what the entries' change would do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4 import bpf
from duet_p4.hmux import pipeline
from duet_p4.xdp_switch.compiler import compile_program
from duet_p4.xdp_switch.compiler.entries import Strategy, TableLayout
from duet_p4.xdp_switch.compiler.lookup.index import IndexStore
from duet_p4.xdp_switch.compiler.lookup.trie import TrieStore
from duet_p4.xdp_switch.dataplane import EntryKey

COMPILED = compile_program(pipeline.DEVICE_CONFIG.read_bytes(), 1)
LARGE = COMPILED.tables["HmuxIngress.routing.route_table"]
ROUTES = replace(LARGE, table=replace(LARGE.table, size=16))
SLOTS = COMPILED.tables["HmuxIngress.routing.nexthop_slot_table"]
BASE = 64


@dataclass
class Memory:
    """The variables of a program, one after another, as a loaded object has them."""

    sizes: dict[str, int]
    whole: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.whole = bytearray(BASE + sum(self.sizes.values()))

    def place(self, name: str) -> tuple[int, int]:
        names = list(self.sizes)
        return BASE + sum(self.sizes[n] for n in names[: names.index(name)]), self.sizes[name]

    def memory(self, name: str) -> memoryview:
        start, size = self.place(name)
        return memoryview(self.whole)[start : start + size]

    def word(self, name: str, index: int) -> int:
        return self.memory(name).cast("Q")[index]


def trie() -> tuple[Memory, TrieStore]:
    sizes = {f"root_{ROUTES.symbol}": 8 << 16, f"nodes_{ROUTES.symbol}": 128 * ROUTES.trie_nodes}
    memory = Memory(sizes)
    return memory, TrieStore(ROUTES, cast(bpf.Object, memory))


def look_up(memory: Memory, layout: TableLayout, address: int) -> int:
    """Look an address up as the compiled C does."""
    slot = memory.word(f"root_{layout.symbol}", address >> 16)
    found = slot & 0xFFFFFFFF
    for level in reversed(range(layout.trie_levels)):
        node = slot >> 39
        if not node:
            break
        slot = memory.word(f"nodes_{layout.symbol}", 16 * node + (address >> 4 * level & 15))
        found = slot & 0xFFFFFFFF or found
    return found


def prefix(value: int, length: int) -> EntryKey:
    return (((value >> 32 - length << 32 - length if length else 0), length),), 0


ADDRESSES = st.sampled_from([0x0A000000, 0x0A000001, 0x0A0000FF, 0x0A000100, 0x0A010000, 0x14000001])
PREFIXES = st.builds(prefix, ADDRESSES, st.integers(0, 32))


def word(number: int) -> bytes:
    return (number << 1 | 1).to_bytes(8, "little")


@settings(max_examples=40, deadline=None)
@given(st.lists(PREFIXES, min_size=1, max_size=12, unique=True), st.data())
def test_a_detour_of_prefixes_leads_as_their_change_does(held: list[EntryKey], data: st.DataObject) -> None:
    assert ROUTES.strategy is Strategy.TRIE and ROUTES.packing is not None
    memory, store = trie()
    for number, key in enumerate(held):
        store.insert([key], word(number))
    chosen = data.draw(st.lists(st.sampled_from(held), unique=True))
    changes = {key: data.draw(st.sampled_from([None, word(1000 + n)])) for n, key in enumerate(chosen)}
    words = store.words(changes)
    before = bytes(memory.whole)
    for at, value in words.items():
        memory.whole[at : at + 8] = value.to_bytes(8, "little")
    addresses = [value for ((value, _),), _ in held] + [0x0A000002, 0x0A0000FE, 0x0B000000, 0x14000002]
    led = [look_up(memory, ROUTES, address) for address in addresses]
    memory.whole[:] = before
    for key, entry in changes.items():
        if entry is None:
            store.delete([key])
        else:
            store.modify([key], entry)
    assert led == [look_up(memory, ROUTES, address) for address in addresses]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_prefixes_changed_together_lead_as_a_plain_search_does(data: st.DataObject) -> None:
    memory, store = trie()
    held: dict[EntryKey, int] = {}
    for number in range(1, 5):
        kind = data.draw(st.sampled_from(["insert", "modify", "delete"]))
        if kind == "insert":
            keys = [key for key in data.draw(st.lists(PREFIXES, max_size=8, unique=True)) if key not in held]
            keys = keys[: 16 - len(held)]
        else:
            keys = data.draw(st.lists(st.sampled_from(list(held)), unique=True)) if held else []
        if not keys:
            continue
        numbers = [100 * number + at for at in range(len(keys))]
        if kind == "delete":
            store.delete(keys)
            for key in keys:
                del held[key]
        else:
            (store.insert if kind == "insert" else store.modify)(keys, b"".join(map(word, numbers)))
            held |= dict(zip(keys, numbers, strict=True))
        for address in [0x0A000000, 0x0A000001, 0x0A0000FE, 0x0A000100, 0x0A01FFFF, 0x14000001, 0x15000000]:
            expected, longest = 0, -1
            for (((value, length),), _), held_number in held.items():
                if longest < length and address >> 32 - length == value >> 32 - length:
                    expected, longest = held_number << 1 | 1, length
            assert look_up(memory, ROUTES, address) == expected, f"{address:#x} among {held}"
    store.delete(list(held))
    assert memory.memory(f"root_{ROUTES.symbol}") == bytes(8 << 16), (
        "nothing is left of prefixes that are gone"
    )
    assert len(store._free.take(ROUTES.trie_nodes - 1)) == ROUTES.trie_nodes - 1


def test_a_detour_of_an_index_writes_its_words_and_none_that_is_not_there_is_refused() -> None:
    memory = Memory({f"index_{SLOTS.symbol}": 8 << 12})
    store = IndexStore(SLOTS, cast(bpf.Object, memory))
    store.insert([((5,), 0)], word(1))
    assert store.words({((5,), 0): word(2), ((6,), 0): None}) == {
        BASE + 40: int.from_bytes(word(2), "little"),
        BASE + 48: 0,
    }
    _, routes = trie()
    with pytest.raises(ValueError, match="not in the table"):
        routes.words({prefix(0x0A000000, 24): None})
