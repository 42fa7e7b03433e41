"""The underlay's tables of an HMux: prefixes, next-hop groups and next hops.

`RouteTables` is told which gateways each prefix has, and which gateways are alive, and answers with
plans as `tables.VipTables` does: make-before-break, minimal, all or nothing.

Every prefix with the same gateways shares one next-hop group. When a gateway dies, the slots it had
in each group go to the gateways that are left: one write per slot, however many prefixes there are,
and flows of the other gateways stay where they are. A prefix none of whose gateways is alive leaves
the table, so that a shorter prefix takes over: the SMuxes' covering prefix, for a VIP.

Where the covering prefix leads down the tree, the backstop table says so for what comes from above: a
route to a VIP that leads up is then on its way out, or not yet everywhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

from duet_p4.allocation import Pool, TableFullError
from duet_p4.hmux.plan import Op, Plan, Update, note
from duet_p4.hmux.rows import (
    BackstopRow,
    Key,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    RouteRow,
    UnderlayRow,
)

_SHARES = 4
"""Slots per gateway, where there are several: what a dead one's flows are spread by."""


@dataclass(frozen=True, slots=True, order=True)
class Gateway:
    """A neighbour that packets are routed to: its address, and the port it is behind.

    As the way to its own address (`itself`) it is alive while its link is, whether or not it forwards.
    """

    port: int
    address: IPv4Address
    itself: bool = False


@dataclass(frozen=True, slots=True)
class Adjacency:
    """How a frame reaches a gateway: the port's and the gateway's Ethernet address, the link's MTU."""

    source: int
    destination: int
    mtu: int


class Local(Enum):
    """Where a prefix leads that has no gateway."""

    PUNT = RouteRow.PUNT
    DROP = RouteRow.DROP


Target: TypeAlias = frozenset[Gateway] | Local


@dataclass(frozen=True)
class Place:
    """Where the switch is in the tree: the ports that lead up.

    `muxes` are the prefixes of VIPs and TIPs, as the SMuxes announce them.
    """

    uplinks: frozenset[int] = frozenset()
    muxes: tuple[IPv4Network, ...] = ()

    def leads_up(self, gateways: frozenset[Gateway]) -> bool:
        """Whether any of these gateways is above."""
        return any(gateway.port in self.uplinks for gateway in gateways)

    def is_mux(self, prefix: IPv4Network) -> bool:
        """Whether a prefix is of VIPs or TIPs."""
        return any(prefix.subnet_of(muxes) for muxes in self.muxes)


def fill(
    gateways: frozenset[Gateway], alive: frozenset[Gateway], *, masked: bool = False
) -> tuple[Gateway, ...]:
    """Return the owner of each slot of a group, given which of its gateways are alive.

    There are as many slots for each; where hashes are `masked`, a power of two in all, so that some may have
    one more.

    The order is fixed, so a restarted agent fills a group as its predecessor did. A dead gateway's
    slots are dealt out to the living in turn; those of the living do not move.
    """
    everyone, living = sorted(gateways), sorted(gateways & alive)
    if not living:
        return ()
    count = len(everyone) * (_SHARES if len(everyone) > 1 else 1)
    if masked:
        count = 1 << (count - 1).bit_length()
    owners = []
    orphans = 0
    for slot in range(count):
        owner = everyone[slot % len(everyone)]
        if owner not in alive:
            owner = living[orphans % len(living)]
            orphans += 1
        owners.append(owner)
    return tuple(owners)


class RouteTables:
    """What the underlay's tables of one switch hold, and what they should.

    `want` and `reach` state what should be; `plan` says how to get there; `apply` notes what the
    switch has taken, and `settle` that it has taken a whole plan.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        rows: Iterable[UnderlayRow] = (),
        place: Place = Place(),
        *,
        masked: bool = False,
    ) -> None:
        """Start from the `rows` that a switch holds, wanting nothing yet; `sizes` by `Row.table`.

        State every prefix and adjacency before the first `plan`: it keeps of `rows` what serves. A `masked`
        switch picks slots by a mask, and gets a power of two of them.
        """
        self._sizes = sizes
        self._masked = masked
        self._place = place
        self._held = _Held(sizes)
        self._targets: dict[IPv4Network, Target] = {}
        self._users: defaultdict[frozenset[Gateway], set[IPv4Network]] = defaultdict(set)
        self._adjacencies: dict[Gateway, Adjacency] = {}
        self._group_of: dict[frozenset[Gateway], int] = {}
        self._dirty_prefixes: set[IPv4Network] = set()
        self._dirty_groups: set[frozenset[Gateway]] = set()
        self._suspect = True
        self._draft: _Draft | None = None
        self.unplaced: frozenset[IPv4Network] = frozenset()
        """Prefixes that the last plan had no room for."""
        self.apply(Update(Op.INSERT, row) for row in rows)

    def want(self, routes: Mapping[IPv4Network, Target | None]) -> None:
        """State where prefixes should lead; None for those that should be gone."""
        for prefix, target in routes.items():
            old = self._targets.pop(prefix, None)
            if isinstance(old, frozenset):
                self._users[old].discard(prefix)
                self._dirty_groups.add(old)
            if target is not None:
                self._targets[prefix] = target
            if isinstance(target, frozenset):
                self._users[target].add(prefix)
                self._dirty_groups.add(target)
            self._dirty_prefixes.add(prefix)

    def wants(self, prefix: IPv4Network) -> bool:
        """Return whether a prefix is to lead somewhere, as `want` was told last."""
        return prefix in self._targets

    def reach(self, adjacencies: Mapping[Gateway, Adjacency | None]) -> None:
        """State how gateways are reached; None for those that are dead."""
        changed = set()
        for gateway, adjacency in adjacencies.items():
            if self._adjacencies.get(gateway) != adjacency:
                changed.add(gateway)
            if adjacency is None:
                self._adjacencies.pop(gateway, None)
            else:
                self._adjacencies[gateway] = adjacency
        self._dirty_groups.update(group for group in self._users if group & changed)

    def plan(self) -> Plan[UnderlayRow]:
        """Return how to get from what the switch holds to what it should."""
        self._draft = self._begun(self._adjacencies)
        groups, prefixes = set(self._dirty_groups), set(self._dirty_prefixes)
        if self._suspect:
            groups.update(self._users)
            held = self._held.rows.values()
            prefixes.update(self._targets, (row.prefix for row in held if isinstance(row, RouteRow)))
        self._draft.place_groups({group: self._users[group] for group in groups})
        prefixes.update(*(self._users[group] for group in self._draft.rerouted))
        self._draft.place_routes({prefix: self._targets.get(prefix) for prefix in prefixes})
        self._draft.place_backstop([self._targets.get(prefix) for prefix in self._place.muxes])
        if self._suspect:
            self._draft.sweep()
        self._draft.free_nexthops()
        return self._draft.plan()

    def _begun(self, adjacencies: Mapping[Gateway, Adjacency]) -> _Draft:
        """Return a draft from what the switch holds, in which these gateways are alive."""
        return _Draft(self._held, self._place, adjacencies, self._group_of, self._masked)

    def ports(self) -> frozenset[int]:
        """Return the ports that gateways are behind."""
        return frozenset(gateway.port for gateway in self._adjacencies)

    def detour(self, port: int) -> list[Update[UnderlayRow]]:
        """Return what leads around a port at once, should it die: rows to modify and delete, in no order.

        Empty where nothing leads there, and where it takes more than that.
        """
        alive = {gateway: how for gateway, how in self._adjacencies.items() if gateway.port != port}
        draft = self._begun(alive)
        touched = [group for group in self._users if any(gateway.port == port for gateway in group)]
        draft.place_groups({group: self._users[group] for group in touched})
        prefixes = set().union(*(self._users[group] for group in draft.rerouted))
        draft.place_routes({prefix: self._targets.get(prefix) for prefix in prefixes})
        draft.place_backstop([self._targets.get(prefix) for prefix in self._place.muxes])
        return draft.leads_around()

    def concerned(self, updates: Iterable[Update[UnderlayRow]]) -> frozenset[int]:
        """Return the ports whose `detour` may be another once updates are carried out, and noted.

        A prefix with gateways behind several ports concerns none: where one of them dies, slots lead around.
        """
        groups = {number: group for group, number in self._group_of.items()}
        found: set[int] = set()
        for update in updates:
            for row in filter(None, (update.row, update.before)):
                if not isinstance(row, RouteRow) or row.prefix in self._place.muxes:
                    return self.ports()
                if row.group in (RouteRow.PUNT, RouteRow.DROP):
                    continue
                if row.group not in groups:
                    return self.ports()
                ports = {gateway.port for gateway in groups[row.group] if gateway in self._adjacencies}
                found |= ports if len(ports) == 1 else set()
        return frozenset(found)

    def apply(self, updates: Iterable[Update[UnderlayRow]]) -> None:
        """Note updates that the switch has taken."""
        self._held.note(updates)
        self._suspect = True

    def settle(self) -> None:
        """Note that the switch has taken the whole of the last `plan`."""
        draft = self._draft
        assert draft is not None
        self.apply(draft.plan())
        self._group_of = draft.group_of
        for group in [group for group, users in self._users.items() if not users]:
            del self._users[group]
        self.unplaced = frozenset(draft.unplaced)
        self._dirty_prefixes = set(draft.unplaced)
        self._dirty_groups = {t for p in draft.unplaced if isinstance(t := self._targets[p], frozenset)}
        self._suspect = False

    def used(self) -> dict[str, tuple[int, int]]:
        """Return, per table, how many entries are used and how many there are."""
        return {table: (self._held.used[table], size) for table, size in self._sizes.items()}

    def rows(self) -> list[UnderlayRow]:
        """Return every row, in no particular order."""
        return list(self._held.rows.values())


class _Held:
    """The rows that a switch holds, and what follows from them: who is to draft a plan reads it off."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.rows: dict[Key, UnderlayRow] = {}
        self.used: Counter[str] = Counter()
        self.route_size = sizes[RouteRow.table]
        self.references: Counter[int] = Counter()
        """How many slots lead to a next hop."""
        self.groups, self.slots, self.nexthops = (
            Pool(table, sizes[table])
            for table in (NextHopGroupRow.table, NextHopSlotRow.table, NextHopRow.table)
        )
        self.group_rows: dict[int, NextHopGroupRow] = {}
        self.nexthop_of: dict[tuple[int, Adjacency], int] = {}
        self.backed_up: set[int] = set()
        """Ports that have a backstop, which may be uplinks no more."""

    def note(self, updates: Iterable[Update[UnderlayRow]]) -> None:
        """Note updates that the switch has taken."""
        note(self.rows, updates, self._count)

    def _count(self, row: UnderlayRow, *, held: bool) -> None:
        self.used[row.table] += 1 if held else -1
        match row:
            case BackstopRow():
                (self.backed_up.add if held else self.backed_up.discard)(row.port)
            case NextHopGroupRow():
                self.groups.mark(row.group, taken=held)
                if held:
                    self.group_rows[row.group] = row
                else:
                    del self.group_rows[row.group]
            case NextHopSlotRow():
                self.slots.mark(row.slot, taken=held)
                self.references[row.nexthop] += 1 if held else -1
            case NextHopRow():
                self.nexthops.mark(row.nexthop, taken=held)
                key = row.port, Adjacency(row.source, row.destination, row.mtu)
                if held:
                    self.nexthop_of[key] = row.nexthop
                elif self.nexthop_of.get(key) == row.nexthop:
                    del self.nexthop_of[key]


class _Draft:
    """A plan in the making: what groups, slots and next hops it would use."""

    def __init__(
        self,
        held: _Held,
        place: Place,
        adjacencies: Mapping[Gateway, Adjacency],
        group_of: Mapping[frozenset[Gateway], int],
        masked: bool,
    ) -> None:
        self._masked = masked
        self._place = place
        self._rows = held.rows
        self._group_rows = held.group_rows
        self._references = held.references
        self._adjacencies = adjacencies
        self._alive = frozenset(adjacencies)
        self.group_of = dict(group_of)
        self._groups, self._slots, self._nexthops = (
            pool.copy() for pool in (held.groups, held.slots, held.nexthops)
        )
        self._room = held.route_size - held.used[RouteRow.table]
        self._nexthop_of = dict(held.nexthop_of)
        self._backed_up = held.backed_up
        self._change: Counter[int] = Counter()
        self.rerouted: set[frozenset[Gateway]] = set()
        """Groups that came, went or got another number: the routes to them change."""
        self.unplaced: set[IPv4Network] = set()
        self._made: list[Update[UnderlayRow]] = []
        self._moved: list[Update[UnderlayRow]] = []
        self._routed: list[Update[UnderlayRow]] = []
        self._unrouted: list[Update[UnderlayRow]] = []
        self._freed: list[Update[UnderlayRow]] = []

    def place_groups(self, users: Mapping[frozenset[Gateway], set[IPv4Network]]) -> None:
        """Have each group that has users and living gateways in the tables, and no other of them."""
        needed = {group: self._fill(group) for group, prefixes in users.items() if prefixes}
        wanted = {group: owners for group, owners in needed.items() if owners}
        self._adopt({group: users[group] for group in wanted if group not in self.group_of})
        for group, owners in wanted.items():
            try:
                self._place_group(group, owners)
            except TableFullError:
                self.unplaced.update(users[group])
        for group in users:
            if group not in wanted and group in self.group_of:
                self._drop_group(self.group_of.pop(group))
                self.rerouted.add(group)

    def place_routes(self, targets: Mapping[IPv4Network, Target | None]) -> None:
        """Have each prefix lead to its target; the shortest first, as they back up the others."""
        for prefix in sorted(targets, key=lambda p: (p.prefixlen, p)):
            target = targets[prefix]
            held = self._rows.get(("route", prefix))
            row = None
            if isinstance(target, Local):
                row = RouteRow(prefix, target.value)
            elif target is not None and target in self.group_of:
                up = self._place.is_mux(prefix) and self._place.leads_up(target)
                row = RouteRow(prefix, self.group_of[target], up)
            if row is None:
                if held is not None:
                    self._unrouted.append(Update(Op.DELETE, held, held))
            elif held is not None:
                if held != row:
                    self._routed.append(Update(Op.MODIFY, row, held))
            elif self._room:
                self._room -= 1
                self._routed.append(Update(Op.INSERT, row))
            else:
                self.unplaced.add(prefix)

    def place_backstop(self, targets: Iterable[Target | None]) -> None:
        """Have what comes from above take the first group of `targets`, if that leads down."""
        groups = [t for t in targets if isinstance(t, frozenset) and t in self.group_of]
        down = groups and not self._place.leads_up(groups[0])
        for port in sorted(self._place.uplinks | self._backed_up):
            held = self._rows.get((BackstopRow.table, port))
            if down and port in self._place.uplinks:
                row = BackstopRow(port, self.group_of[groups[0]])
                if held != row:
                    self._routed.append(Update(Op.MODIFY if held else Op.INSERT, row, held))
            elif held is not None:
                self._unrouted.append(Update(Op.DELETE, held, held))

    def sweep(self) -> None:
        """Free the groups and slots that an earlier agent, or a plan that failed, has left."""
        dropped = {update.row.key for update in self._freed}
        covered: set[int] = set()
        for group in self._group_rows.values():
            covered.update(range(group.first, group.first + group.count))
        for stray in self._strays():
            if stray.key not in dropped:
                self._drop_group(stray.group)
        for row in self._rows.values():
            if isinstance(row, NextHopSlotRow) and row.slot not in covered:
                self._freed.append(Update(Op.DELETE, row, row))
                self._change[row.nexthop] -= 1
            elif isinstance(row, NextHopRow):
                self._change[row.nexthop] += 0

    def free_nexthops(self) -> None:
        """Delete the next hops that no slot refers to any more."""
        for nexthop in sorted(self._change):
            held = self._rows.get((NextHopRow.table, nexthop))
            if held is not None and self._references[nexthop] + self._change[nexthop] == 0:
                self._freed.append(Update(Op.DELETE, held, held))

    def plan(self) -> Plan[UnderlayRow]:
        """Return the steps: what is new first, then what leads to it, then what is not used any more."""
        return Plan.of(
            ("nexthops", self._made),
            ("nexthops", self._moved),
            ("routes", self._routed),
            ("routes", self._unrouted),
            ("free", self._freed),  # No route leads to any of these, so their order is nobody's concern.
        )

    def leads_around(self) -> list[Update[UnderlayRow]]:
        """Return what of the plan concerns packets, if that needs nothing new."""
        updates = [*self._moved, *self._routed, *self._unrouted]
        if self._made or any(update.op is Op.INSERT for update in updates):
            return []
        return updates

    def _fill(self, group: frozenset[Gateway]) -> tuple[Gateway, ...]:
        return fill(group, self._alive, masked=self._masked)

    def _adopt(self, users: Mapping[frozenset[Gateway], set[IPv4Network]]) -> None:
        """Keep groups of an earlier agent that are as wanted, best those that routes lead to already."""
        strays: defaultdict[tuple[UnderlayRow | None, ...], list[int]] = defaultdict(list)
        for row in self._strays():
            strays[self._content(row)].append(row.group)
        if not strays:
            return
        for group, prefixes in users.items():
            matching = strays[self._wanted_content(self._fill(group))]
            if matching:
                led = Counter(
                    r.group for p in prefixes if isinstance(r := self._rows.get(("route", p)), RouteRow)
                )
                best = max(matching, key=lambda number: led[number])
                matching.remove(best)
                self.group_of[group] = best
                self.rerouted.add(group)

    def _strays(self) -> list[NextHopGroupRow]:
        """Return the groups that the switch holds and no plan of this agent has made."""
        owned = set(self.group_of.values())
        return [row for number, row in self._group_rows.items() if number not in owned]

    def _content(self, row: NextHopGroupRow) -> tuple[UnderlayRow | None, ...]:
        """Return the next hops of a group, slot by slot; None where a row is missing."""
        slots = (self._rows.get((NextHopSlotRow.table, row.first + n)) for n in range(row.count))
        return tuple(
            self._rows.get((NextHopRow.table, slot.nexthop)) if isinstance(slot, NextHopSlotRow) else None
            for slot in slots
        )

    def _wanted_content(self, owners: tuple[Gateway, ...]) -> tuple[UnderlayRow | None, ...]:
        numbers = (self._nexthop_of.get((gw.port, self._adjacencies[gw])) for gw in owners)
        return tuple(
            self._rows.get((NextHopRow.table, number)) if number is not None else None for number in numbers
        )

    def _place_group(self, group: frozenset[Gateway], owners: tuple[Gateway, ...]) -> None:
        nexthops = [self._nexthop(gateway) for gateway in owners]
        if group in self.group_of:
            row = self._rows[NextHopGroupRow.table, self.group_of[group]]
            assert isinstance(row, NextHopGroupRow)
            for slot, nexthop in enumerate(nexthops, row.first):
                before = self._rows.get((NextHopSlotRow.table, slot))
                self._write_slot(before, NextHopSlotRow(slot, nexthop), self._moved)
            return
        what = f"{len(owners)} next-hop slots"
        number = self._groups.allocate(1, what)
        first = self._slots.allocate(len(owners), what)
        self._made.append(Update(Op.INSERT, NextHopGroupRow(number, first, len(owners))))
        for slot, nexthop in enumerate(nexthops, first):
            self._write_slot(None, NextHopSlotRow(slot, nexthop), self._made)
        self.group_of[group] = number
        self.rerouted.add(group)

    def _nexthop(self, gateway: Gateway) -> int:
        adjacency = self._adjacencies[gateway]
        key = (gateway.port, adjacency)
        if key not in self._nexthop_of:
            number = self._nexthops.allocate(1, f"gateway {gateway.address}")
            self._nexthop_of[key] = number
            self._made.append(
                Update(
                    Op.INSERT,
                    NextHopRow(number, gateway.port, adjacency.source, adjacency.destination, adjacency.mtu),
                )
            )
        return self._nexthop_of[key]

    def _write_slot(
        self, before: UnderlayRow | None, row: NextHopSlotRow, into: list[Update[UnderlayRow]]
    ) -> None:
        if before == row:
            return
        into.append(Update(Op.MODIFY if before else Op.INSERT, row, before))
        self._change[row.nexthop] += 1
        if isinstance(before, NextHopSlotRow):
            self._change[before.nexthop] -= 1

    def _drop_group(self, number: int) -> None:
        row = self._rows[NextHopGroupRow.table, number]
        assert isinstance(row, NextHopGroupRow)
        self._freed.append(Update(Op.DELETE, row, row))
        for slot in range(row.first, row.first + row.count):
            held = self._rows.get((NextHopSlotRow.table, slot))
            if isinstance(held, NextHopSlotRow):
                self._freed.append(Update(Op.DELETE, held, held))
                self._change[held.nexthop] -= 1
