"""What is wanted, in memory: indexed by whatever is asked for, written through before it is acknowledged.

The store is read once, at the start. A change is made by whoever has seen the newest record of a VIP: one
that was changed meanwhile fails with `StaleError` and changes nothing, so nobody waits for a lock, and no two
ever overwrite each other. No call here looks at all VIPs but those whose answer is all VIPs.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from controller.inventory import Inventory
from controller.records import RecordFeed, Resting, VipRecord
from controller.store import Batch, Contents, StaleError, StateStore
from controller.updater.layout import LayoutError
from duet_p4.model import Checked, Vip

REST_S = 60.0
"""How long a VIP or TIP that is wanted no more rests before it is forgotten, and a TIP may be used again."""

_REMOVED_KEPT = 10_000
_Index = dict[str, set[IPv4Address]]


class State:
    """The wanted VIPs, which of their DIPs are down, and which addresses rest."""

    def __init__(self, store: StateStore, contents: Contents, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory
        self._versions: dict[IPv4Address, int] = {}
        self._by_address: dict[IPv4Address, VipRecord] = {}
        self._owner: dict[IPv4Address, IPv4Address] = {}
        self._on: _Index = defaultdict(set)
        self._waiting: _Index = defaultdict(set)
        self._leaving: _Index = defaultdict(set)
        self._by_server: _Index = defaultdict(set)
        self._by_dip: dict[IPv4Address, set[IPv4Address]] = defaultdict(set)
        self._pins: dict[str, int] = defaultdict(int)
        self.freed: dict[str, int] = defaultdict(int)
        self.pinned: set[IPv4Address] = set()
        self.unsettled: set[IPv4Address] = set()
        self.resting = dict(contents.resting)
        self._down: dict[IPv4Address, set[Checked]] = defaultdict(set)
        self.cut_off = set(contents.cut_off)
        self._reserved: set[IPv4Address] = set()
        self._last_tip = inventory.tip_prefix.network_address
        self._changed: OrderedDict[IPv4Address, int] = OrderedDict()
        self._removed: OrderedDict[IPv4Address, int] = OrderedDict()
        self._oldest_removal = 0
        self._writing: set[asyncio.Task[None]] = set()
        self.version = 0
        self.on_statement: Callable[[VipRecord | None, VipRecord | None], None] = lambda *_: None
        """Told the old and the new record, None where there is none, when a VIP is stated anew."""
        for record, version in contents.vips.values():
            self._index(record, version)
        for vip, dip in contents.down:
            self._down[vip].add(dip)

    @property
    def most(self) -> int:
        """How many VIPs change together at most."""
        return self._store.most

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory, of the same prefixes."""
        self._inventory = inventory
        self._by_server.clear()
        for record in self._by_address.values():
            self._index_servers(record)

    # Questions

    def __len__(self) -> int:
        return len(self._by_address)

    def count(self) -> int:
        """Return how many VIPs and TIPs there are."""
        return len(self._owner)

    def records(self) -> Iterator[VipRecord]:
        """Yield every wanted VIP, as it stands when it is its turn."""
        yield from list(self._by_address.values())

    def addresses(self) -> list[IPv4Address]:
        """Return every wanted VIP, in order."""
        return sorted(self._by_address)

    def get(self, vip: IPv4Address) -> VipRecord | None:
        """Return the record of a VIP, if it is wanted."""
        return self._by_address.get(vip)

    def owner(self, address: IPv4Address) -> IPv4Address | None:
        """Return the VIP that an address is, or that has it as a TIP."""
        return self._owner.get(address)

    def on(self, switch: str) -> set[IPv4Address]:
        """Return the VIPs and TIPs that a switch shall carry."""
        return self._on.get(switch, set())

    def waiting_for(self, switch: str) -> set[IPv4Address]:
        """Return the VIPs and TIPs that wait for a switch on the SMuxes."""
        return self._waiting.get(switch, set())

    def leaving(self, switch: str) -> set[IPv4Address]:
        """Return the wanted VIPs and TIPs that a switch gives up, and was not seen to."""
        return self._leaving.get(switch, set())

    def waiting(self) -> dict[IPv4Address, str]:
        """Return all VIPs and TIPs that wait, and for which switch."""
        return {address: switch for switch, found in self._waiting.items() for address in found}

    def at_server(self, server: str) -> set[IPv4Address]:
        """Return the VIPs that DIPs of a server serve."""
        return self._by_server.get(server, set())

    def with_dip(self, dip: IPv4Address) -> set[IPv4Address]:
        """Return the VIPs that state a DIP."""
        return self._by_dip.get(dip, set())

    def down(self, vip: IPv4Address) -> frozenset[Checked]:
        """Return the DIPs of a VIP that are down: by one of its checks, or with their server."""
        record = self._by_address.get(vip)
        if record is None:
            return self.failed(vip)
        gone = self.out_of_reach(record.spec)
        checked = {
            Checked(dip, check) for check, stated in record.spec.by_check().items() for dip in stated & gone
        }
        return self.failed(vip) | checked

    def failed(self, vip: IPv4Address) -> frozenset[Checked]:
        """Return the DIPs of a VIP that fail a check."""
        return frozenset(self._down.get(vip, ()))

    def out_of_reach(self, spec: Vip) -> frozenset[IPv4Address]:
        """Return the DIPs of a VIP that are on servers that nothing can be sent to."""
        if not self.cut_off:
            return frozenset()
        on = {dip.address: self._inventory.server_at(dip.encap) for dip in spec.all_dips()}
        return frozenset(dip for dip, server in on.items() if server and server.name in self.cut_off)

    def down_dips(self) -> set[IPv4Address]:
        """Return the DIPs that are down for any VIP."""
        found = set[Checked]().union(*self._down.values())
        for server in self.cut_off:
            for vip in self.at_server(server):
                found |= self.down(vip)
        return {checked.dip for checked in found}

    def pins_on(self, switch: str) -> int:
        """Return how many flows the VIPs that a switch carries have pinned."""
        return self._pins.get(switch, 0)

    def feed(self, after: int) -> RecordFeed:
        """Return what changed since a version; all of it where that is too long ago, or of another run."""
        if not self._oldest_removal <= after <= self.version or after == 0:
            return RecordFeed(version=self.version, whole=True, records=tuple(self._by_address.values()))
        changed: list[VipRecord] = []
        for address, version in reversed(self._changed.items()):
            if version <= after:
                break
            changed.append(self._by_address[address])
        removed: list[IPv4Address] = []
        for address, version in reversed(self._removed.items()):
            if version <= after:
                break
            removed.append(address)
        return RecordFeed(
            version=self.version, whole=False, records=tuple(reversed(changed)), removed=tuple(removed)
        )

    # Changes

    async def replace(self, changes: Iterable[tuple[VipRecord | None, VipRecord]]) -> None:
        """Put a new record in the place of the old one of each VIP, all or none; None is a VIP that is new.

        What the old ones had and the new ones have not (TIPs) rests. Raises `StaleError` where an old one is
        not the newest any more.
        """
        batch = Batch()
        for old, new in changes:
            if old is None:
                if new.address in self._by_address:
                    raise StaleError(f"VIP {new.address} is there already")
                batch.put.append((new, 0))
                batch.resting[new.address] = None
                continue
            self._check(old)
            batch.put.append((new, self._versions[old.address]))
            for address in old.carried().keys() - new.carried().keys():
                batch.resting[address] = _resting(old, address)
        if batch.put:
            await self._commit(batch)

    async def remove(self, record: VipRecord) -> None:
        """Want a VIP no more; it and its TIPs rest. Raises `StaleError`."""
        self._check(record)
        batch = Batch(delete=[(record.address, self._versions[record.address])])
        batch.resting = {address: _resting(record, address) for address in record.carried()}
        await self._commit(batch)

    async def set_down(self, vip: IPv4Address, dips: Mapping[Checked, bool]) -> None:
        """Remember which DIPs of a VIP are down, and which are not."""
        await self._commit(Batch(down={(vip, dip): down for dip, down in dips.items()}))

    async def set_cut_off(self, servers: Mapping[str, bool]) -> None:
        """Remember which servers nothing can be sent to, and which can be reached again."""
        await self._commit(Batch(cut_off=dict(servers)))

    async def rest(self, resting: Mapping[IPv4Address, Resting | None]) -> None:
        """Note who may still announce what rests; None for what need not rest any more."""
        await self._commit(Batch(resting=dict(resting)))

    def rested(self) -> list[IPv4Address]:
        """Return the addresses that have rested long enough."""
        before = time.time() - REST_S
        return [a for a, resting in self.resting.items() if not resting.switches and resting.since < before]

    def allocate_tip(self) -> IPv4Address:
        """Return a TIP that nobody has and that does not rest; it is reserved until it is wanted or released.

        They are given out in a circle, so that one that was given up is long in coming again.
        """
        prefix: IPv4Network = self._inventory.tip_prefix
        first, last = int(prefix[0]) + 1, int(prefix[-1]) - 1
        count = max(0, last - first + 1)
        start = int(self._last_tip) - first + 1
        for step in range(count):
            address = IPv4Address(first + (start + step) % count)
            if not (address in self._owner or address in self.resting or address in self._reserved):
                self._last_tip = address
                self._reserved.add(address)
                return address
        raise LayoutError(f"the TIP prefix {prefix} has no free address left")

    def release_tips(self, tips: Iterable[IPv4Address]) -> None:
        """Give back TIPs that were allocated and are not wanted after all."""
        self._reserved.difference_update(tips)

    def _check(self, old: VipRecord) -> None:
        if self._by_address.get(old.address) is not old:
            raise StaleError(f"VIP {old.address} was changed meanwhile")

    async def _commit(self, batch: Batch) -> None:
        """Store a batch, then take it over; also where who asked for it has gone meanwhile."""
        task = asyncio.ensure_future(self._write(batch))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until all changes that are under way are in memory, or have failed: others may see them."""
        if self._writing:
            await asyncio.wait(set(self._writing))

    async def _write(self, batch: Batch) -> None:
        await self._store.commit(batch)
        stated = [(self._by_address.get(new.address), new) for new, _ in batch.put]
        gone = [self._by_address[vip] for vip, _ in batch.delete]
        self.take_over(batch)
        for old, new in stated:
            if old is None or old.revision != new.revision:
                self.on_statement(old, new)
        for old in gone:
            self.on_statement(old, None)

    def take_over(self, batch: Batch) -> None:
        """Note in memory what was committed; one who follows a leader does so with all that it hears of."""
        for record, version in batch.put:
            self._index(record, version + 1)
        for vip, _ in batch.delete:
            self._forget(vip)
        for (vip, dip), down in batch.down.items():
            if down:
                self._down[vip].add(dip)
            else:
                self._down[vip].discard(dip)
            if not self._down[vip]:
                del self._down[vip]
        for server, cut_off in batch.cut_off.items():
            if cut_off:
                self.cut_off.add(server)
            else:
                self.cut_off.discard(server)
        for address, resting in batch.resting.items():
            if resting is None:
                self.resting.pop(address, None)
            else:
                self.resting[address] = resting

    # Indices

    def _index(self, record: VipRecord, version: int) -> None:
        vip = record.address
        if old := self._by_address.get(vip):
            self._unindex(old, record)
        self._by_address[vip] = record
        self._versions[vip] = version
        for address, carried in record.carried().items():
            self._owner[address] = vip
            self._reserved.discard(address)
            if carried.switch is not None:
                self._on[carried.switch].add(address)
            if carried.returning is not None:
                self._waiting[carried.returning].add(address)
            for switch in carried.leaving:
                self._leaving[switch].add(address)
        if record.layout.pinned:
            self.pinned.add(vip)
            if record.switch is not None:
                self._pins[record.switch] += len(record.layout.pinned)
        if record.unsettled:
            self.unsettled.add(vip)
        for dip in record.spec.all_dips():
            self._by_dip[dip.address].add(vip)
        self._index_servers(record)
        self.version += 1
        self._changed[vip] = self.version
        self._changed.move_to_end(vip)
        self._removed.pop(vip, None)

    def _index_servers(self, record: VipRecord) -> None:
        for dip in record.spec.all_dips():
            if server := self._inventory.server_at(dip.encap):
                self._by_server[server.name].add(record.address)

    def _unindex(self, old: VipRecord, new: VipRecord | None) -> None:
        staying = new.carried() if new else {}
        for address, carried in old.carried().items():
            self._owner.pop(address, None)
            if carried.switch is not None:
                self._on[carried.switch].discard(address)
                kept = staying.get(address)
                if kept is None or kept.switch != carried.switch or (new and new.layout != old.layout):
                    self.freed[carried.switch] += 1
            if carried.returning is not None:
                self._waiting[carried.returning].discard(address)
            for switch in carried.leaving:
                self._leaving[switch].discard(address)
        self.pinned.discard(old.address)
        self.unsettled.discard(old.address)
        if old.switch is not None:
            self._pins[old.switch] -= len(old.layout.pinned)
        for dip in old.spec.all_dips():
            self._by_dip[dip.address].discard(old.address)
            if not self._by_dip[dip.address]:
                del self._by_dip[dip.address]
            if server := self._inventory.server_at(dip.encap):
                self._by_server[server.name].discard(old.address)

    def _forget(self, vip: IPv4Address) -> None:
        self._unindex(self._by_address.pop(vip), None)
        del self._versions[vip]
        del self._changed[vip]
        self._down.pop(vip, None)
        self.version += 1
        self._removed[vip] = self.version
        if len(self._removed) > _REMOVED_KEPT:
            _, self._oldest_removal = self._removed.popitem(last=False)


def _resting(record: VipRecord, address: IPv4Address) -> Resting:
    carried = record.carried()[address]
    switches = {*carried.leaving, *((carried.switch,) if carried.switch else ())}
    return Resting(address=address, switches=tuple(sorted(switches)), since=time.time())
