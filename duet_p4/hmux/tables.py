"""The load balancer's tables of an HMux: who has which slots and tunnels, and how to change that.

`VipTables` mirrors what the switch holds. Asked for a change, it answers with a plan that

- is make-before-break: new tunnels and slots first, then the entry that leads to them, then what is
  no longer used is freed. At every moment a flow has its old DIP or its new one, and flows of other
  VIPs are not touched;
- is minimal: rows that are right are not written;
- is all or nothing: where a table has no room, `TableFullError` is raised and there is no plan.

A plan changes nothing here until `apply` is told what the switch has taken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from duet_p4.allocation import Pool, TableFullError
from duet_p4.hmux.plan import Op, Plan, Update, note
from duet_p4.hmux.rows import AclRow, HostRow, Key, PinnedRow, SlotRow, TunnelRow, VipRow
from duet_p4.model import Group, MuxTip, MuxVip, PinnedFlow

GroupRow = HostRow | AclRow


class AddressInUseError(Exception):
    """An address is held as a VIP and was put as a TIP, or the other way round."""


class SlotCountError(Exception):
    """A group has a number of slots that the switch cannot pick from."""


class VipTables:
    """What the load balancer's tables of one switch hold."""

    def __init__(
        self, sizes: Mapping[str, int], rows: Iterable[VipRow] = (), *, masked: bool = False
    ) -> None:
        """Start from the `rows` that a switch holds, whose tables have these `sizes`, by `Row.table`.

        Rows may be in any state, as after a crash between two writes: slots that are missing are
        written when their VIP is put again, and `sweep` plans the removal of what nothing leads to. A
        `masked` switch picks slots by a mask where others divide: of a power of two of them that is the same.
        """
        self._sizes = sizes
        self._masked = masked
        self._rows: dict[Key, VipRow] = {}
        self._slots = Pool(SlotRow.table, sizes[SlotRow.table])
        self._tunnels = Pool(TunnelRow.table, sizes[TunnelRow.table])
        self._tunnel_of: dict[IPv4Address, int] = {}
        self._references: Counter[int] = Counter()
        self._of_address: defaultdict[IPv4Address, set[Key]] = defaultdict(set)
        self._counts: Counter[str] = Counter()
        self.apply(Update(Op.INSERT, row) for row in rows)

    def apply(self, updates: Iterable[Update[VipRow]]) -> None:
        """Note updates that the switch has taken."""
        note(self._rows, updates, self._count)

    def __contains__(self, address: object) -> bool:
        """Whether a row leads from a VIP or TIP."""
        return any(self._leads(key) for key in self._of_address.get(address, ()))  # type: ignore[call-overload]

    def rows(self) -> list[VipRow]:
        """Return every row, in no particular order."""
        return list(self._rows.values())

    def used(self) -> dict[str, tuple[int, int]]:
        """Return, per table, how many entries are used and how many there are."""
        return {table: (self._counts[table], size) for table, size in self._sizes.items()}

    def addresses(self) -> list[IPv4Address]:
        """Return the addresses of every VIP and TIP that a row leads from, in order."""
        return sorted(address for address, keys in self._of_address.items() if keys)

    def put_vip(self, vip: MuxVip) -> Plan[VipRow]:
        """Return the plan after which the switch holds `vip` exactly.

        Raises `TableFullError`, `AddressInUseError` where the address is a TIP's, and `SlotCountError`.
        """
        flag = bool(vip.pinned)
        count = len(vip.group.slots) if vip.group else 0
        host = HostRow(vip.address, 0, count, has_ports=bool(vip.ports), has_pinned=flag)
        groups: dict[Key, tuple[GroupRow, Group | None]] = {host.key: (host, vip.group)}
        for port in vip.ports:
            acl = AclRow(vip.address, port.protocol, port.port, 0, len(port.group.slots), has_pinned=flag)
            groups[acl.key] = (acl, port.group)
        return self._put(f"VIP {vip.address}", vip.address, groups, vip.pinned)

    def put_tip(self, tip: MuxTip) -> Plan[VipRow]:
        """Return the plan after which the switch holds `tip` exactly; raises as `put_vip` does."""
        host = HostRow(tip.address, 0, len(tip.group.slots), tip=True)
        return self._put(f"TIP {tip.address}", tip.address, {host.key: (host, tip.group)}, ())

    def delete(self, address: IPv4Address) -> Plan[VipRow]:
        """Return the plan after which nothing of a VIP or TIP is left; empty where there was nothing."""
        return self._put(str(address), address, {}, ())

    def sweep(self) -> Plan[VipRow]:
        """Return the plan that removes rows that no VIP or TIP leads to, as a crash leaves them."""
        live = {
            slot
            for row in self._rows.values()
            if isinstance(row, HostRow | AclRow)
            for slot in range(row.first, row.first + row.count)
        }
        held = {address for address, keys in self._of_address.items() if any(self._leads(k) for k in keys)}
        draft = _Draft(self)
        for row in self._rows.values():
            if (isinstance(row, SlotRow) and row.slot not in live) or (
                isinstance(row, PinnedRow) and row.destination not in held
            ):
                draft.delete(row, draft.freed)
        draft.candidates.update(row.tunnel for row in self._rows.values() if isinstance(row, TunnelRow))
        draft.free_tunnels()
        return draft.plan()

    def _put(
        self,
        what: str,
        address: IPv4Address,
        groups: Mapping[Key, tuple[GroupRow, Group | None]],
        pinned: Iterable[PinnedFlow],
    ) -> Plan[VipRow]:
        held = [self._rows[key] for key in self._of_address.get(address, ())]
        old_groups = {row.key: row for row in held if isinstance(row, HostRow | AclRow)}
        old_pins = {row.key: row for row in held if isinstance(row, PinnedRow)}
        self._check(what, old_groups, groups)
        draft = _Draft(self)
        encap_of: dict[IPv4Address, IPv4Address] = {}
        for _, group in groups.values():
            for dip in group.members if group else ():
                encap_of.setdefault(dip.address, dip.encap)
        pins: dict[Key, VipRow] = {}
        for flow in pinned:
            row = _pinned_row(address, flow, draft.tunnel(encap_of[flow.dip], what))
            pins[row.key] = row
        self._check_room("pinned", what, old_pins, pins)
        for key, pin in pins.items():
            draft.write(old_pins.get(key), pin, draft.pinned)
        for key, (leading, group) in groups.items():
            self._put_group(draft, what, old_groups.get(key), leading, group)
        for key, old_group in old_groups.items():
            if key not in groups:
                draft.delete(old_group, draft.unled if isinstance(old_group, HostRow) else draft.unled_ports)
                self._free_slots(draft, old_group)
        for key, old_pin in old_pins.items():
            if key not in pins:
                draft.delete(old_pin, draft.unpinned)
        draft.free_tunnels()
        return draft.plan()

    def _put_group(
        self, draft: _Draft, what: str, old: GroupRow | None, row: GroupRow, group: Group | None
    ) -> None:
        tunnels = _tunnels(draft, what, group) if group else []
        fresh = old is None or old.count != row.count
        if old is not None and not fresh:
            row = replace(row, first=old.first)
        elif tunnels:
            row = replace(row, first=draft.slots.allocate(row.count, what))
        slots = map(SlotRow, range(row.first, row.first + len(tunnels)), tunnels)
        if fresh:
            draft.insert(slots, draft.made)
        else:
            for slot in slots:
                draft.write(self._rows.get(slot.key), slot, draft.moved)
        # Ports and pins must be looked at before slots move, and until they have moved.
        while_moving = _both_looked_at(old, row)
        draft.write(old, while_moving, draft.led_ports if isinstance(row, AclRow) else draft.led)
        draft.write(while_moving, row, draft.unled)
        if old is not None and fresh:
            self._free_slots(draft, old)

    def _free_slots(self, draft: _Draft, row: GroupRow) -> None:
        for slot in range(row.first, row.first + row.count):
            held = self._rows.get(("ecmp", slot))
            if held is not None:
                draft.delete(held, draft.freed)

    def _check(
        self, what: str, old: Mapping[Key, GroupRow], new: Mapping[Key, tuple[GroupRow, Group | None]]
    ) -> None:
        for row, _ in new.values():
            if self._masked and row.count & row.count - 1:
                raise SlotCountError(
                    f"{what} has a group of {row.count} slots: this switch takes powers of two"
                )
            for held in old.values():
                is_tip = isinstance(row, HostRow) and row.tip
                if is_tip != (isinstance(held, HostRow) and held.tip):
                    raise AddressInUseError(f"{what}: the switch holds {row.address} as a {_kind(held)}")
        for table in ("host", "acl"):
            self._check_room(
                table,
                what,
                [key for key in old if key[0] == table],
                [key for key in new if key[0] == table],
            )

    def _check_room(self, table: str, what: str, old: Iterable[Key], new: Iterable[Key]) -> None:
        """Refuse what would exceed a table even for the moment before old rows are deleted."""
        asked = len(set(new) - set(old))
        size = self.used()[table][1]
        if self._counts[table] + asked > size:
            raise TableFullError(table, self._counts[table], asked, size, what)

    def _leads(self, key: Key) -> bool:
        return isinstance(self._rows[key], HostRow | AclRow)

    def _count(self, row: VipRow, *, held: bool) -> None:
        sign = 1 if held else -1
        self._counts[row.table] += sign
        match row:
            case SlotRow():
                self._slots.mark(row.slot, taken=held)
                self._references[row.tunnel] += sign
            case TunnelRow():
                self._tunnels.mark(row.tunnel, taken=held)
                if held:
                    self._tunnel_of[row.encap] = row.tunnel
                elif self._tunnel_of.get(row.encap) == row.tunnel:
                    del self._tunnel_of[row.encap]
            case HostRow() | AclRow() | PinnedRow():
                address = row.destination if isinstance(row, PinnedRow) else row.address
                keys = self._of_address[address]
                if held:
                    keys.add(row.key)
                else:
                    keys.discard(row.key)
                    if not keys:
                        del self._of_address[address]
                if isinstance(row, PinnedRow):
                    self._references[row.tunnel] += sign


class _Draft:
    """A plan in the making, with the allocations it would need."""

    def __init__(self, tables: VipTables) -> None:
        self._rows = tables._rows
        self._tunnel_of = dict(tables._tunnel_of)
        self._references = tables._references
        self._change: Counter[int] = Counter()
        self.slots = tables._slots.copy()
        self._tunnels = tables._tunnels.copy()
        self.candidates: set[int] = set()
        """Tunnels that may have become free."""
        self.made: list[Update[VipRow]] = []
        """Tunnels and slots that nothing leads to yet."""
        self.pinned: list[Update[VipRow]] = []
        self.led_ports: list[Update[VipRow]] = []
        self.led: list[Update[VipRow]] = []
        """Entries switched over to slots that are ready; ports before the VIP that leads to them."""
        self.moved: list[Update[VipRow]] = []
        """Slots in use that get another tunnel."""
        self.unled: list[Update[VipRow]] = []
        self.unled_ports: list[Update[VipRow]] = []
        self.unpinned: list[Update[VipRow]] = []
        self.freed: list[Update[VipRow]] = []
        self._freed_tunnels: list[Update[VipRow]] = []

    def tunnel(self, encap: IPv4Address, what: str) -> int:
        """Return the tunnel to an address, a new one if need be."""
        if encap not in self._tunnel_of:
            self._tunnel_of[encap] = self._tunnels.allocate(1, what)
            self.made.append(Update(Op.INSERT, TunnelRow(self._tunnel_of[encap], encap)))
        return self._tunnel_of[encap]

    def write(self, before: VipRow | None, row: VipRow, into: list[Update[VipRow]]) -> None:
        """Have `row` in place of `before`, unless it is the same."""
        if before != row:
            into.append(Update(Op.MODIFY if before else Op.INSERT, row, before))
            self._refer(before, -1)
            self._refer(row, 1)

    def insert(self, rows: Iterable[SlotRow], into: list[Update[VipRow]]) -> None:
        """Have rows where there are none."""
        made = list(rows)
        into.extend(Update(Op.INSERT, row) for row in made)
        self._change.update(row.tunnel for row in made)

    def delete(self, row: VipRow, into: list[Update[VipRow]]) -> None:
        """Have `row` no more."""
        into.append(Update(Op.DELETE, row, row))
        self._refer(row, -1)

    def free_tunnels(self) -> None:
        """Delete the tunnels that nothing refers to once the plan is done."""
        for tunnel in sorted(self.candidates):
            held = self._rows.get(("tunneling", tunnel))
            if held is not None and self._references[tunnel] + self._change[tunnel] == 0:
                self._freed_tunnels.append(Update(Op.DELETE, held, held))

    def plan(self) -> Plan[VipRow]:
        """Return the steps, in the order that keeps every flow on its old or its new DIP."""
        return Plan.of(
            ("add_dips", self.made),
            ("add_dips", self.pinned),
            ("add_vip", self.led_ports),
            ("add_vip", self.led),
            ("add_dips", self.moved),
            ("delete_vip", self.unled),
            ("delete_vip", self.unled_ports),
            ("delete_dips", [*self.unpinned, *self.freed]),
            ("delete_dips", self._freed_tunnels),
        )

    def _refer(self, row: VipRow | None, sign: int) -> None:
        if isinstance(row, SlotRow | PinnedRow):
            self._change[row.tunnel] += sign
            if sign < 0:
                self.candidates.add(row.tunnel)


def _tunnels(draft: _Draft, what: str, group: Group) -> list[int]:
    """Return the tunnel of each slot of a group."""
    of: dict[int, int] = {}
    for owner in dict.fromkeys(group.slots):
        of[owner] = draft.tunnel(group.members[owner].encap, what)
    return [of[owner] for owner in group.slots]


def _pinned_row(vip: IPv4Address, flow: PinnedFlow, tunnel: int) -> PinnedRow:
    return PinnedRow(flow.source, vip, flow.protocol, flow.source_port, flow.destination_port, tunnel)


def _both_looked_at(old: GroupRow | None, row: GroupRow) -> GroupRow:
    """Return `row` with whatever flags `old` has, too."""
    if old is None:
        return row
    has_pinned = old.has_pinned or row.has_pinned
    if isinstance(row, HostRow) and isinstance(old, HostRow):
        return replace(row, has_ports=old.has_ports or row.has_ports, has_pinned=has_pinned)
    return replace(row, has_pinned=has_pinned)


def _kind(row: GroupRow) -> str:
    return "TIP" if isinstance(row, HostRow) and row.tip else "VIP"
