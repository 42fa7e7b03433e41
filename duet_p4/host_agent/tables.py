"""What the tables of bpf/maps.h shall hold, given the VIPs of a server; no kernel.

Every row is about one VIP, or about one address of the server: a DIP, or the end of a tunnel. So a change of
VIPs costs what they, and those that share their DIPs, have in the tables, however many others there are.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from duet_p4.api.host import ELSEWHERE, MAX_DIPS, HostDip, HostGroup, HostVip, Share
from duet_p4.host_agent.meters import Metered
from duet_p4.model import Protocol

SHARED, PORTS, NONE = 0x80000000, 0x40000000, 0x20000000
FIRST_EPHEMERAL_PORT = 32_768
_DIP, _TUNNEL_END, _SNAT, _BY_PORT = 1, 2, 4, 8
_SLOT_TIP = 0x80000000
_TCP = Protocol.TCP.number
_DEFAULT = (0, 0)

_SERVED = struct.Struct("=4sII")
_SHARED_END = struct.Struct("=IIII")
_LOCAL = struct.Struct("=I4sI")
_OWNER_KEY = struct.Struct("!4sHBx")
_OWNER = struct.Struct("=4sI")
_SERVICE_KEY = struct.Struct("!4s4sHBx")
_SNAT_VALUE = struct.Struct("=II4sIIHH")
_FLOW = struct.Struct("!4s4sHHB3x")
_CHOICE = struct.Struct("=4sI")
_NOBODY = bytes(4)

SHARED_END_SIZE = _SHARED_END.size + MAX_DIPS * _SERVED.size

GroupKey = tuple[IPv4Address, int, int]
"""A VIP, and of a port of its own the protocol's number and the port, else zeros."""


@dataclass(frozen=True)
class Placed:
    """A group's slots: where they begin in `slots`, what stands there, and how many are the group's own."""

    first: int
    content: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Single:
    """A service with one DIP, or with none."""

    dip: IPv4Address
    meter: int
    flags: int

    @property
    def word(self) -> int:
        """As `union service` has it."""
        return int.from_bytes(self.dip.packed, "little") | (self.meter | self.flags) << 32


@dataclass(frozen=True)
class Several:
    """A service whose DIPs share their tunnel end: what stands in `shared_ends`."""

    content: bytes
    flags: int

    def word(self, row: int) -> int:
        """As `union service` has it."""
        return row | (self.flags | SHARED) << 32


Service = Single | Several
Row = TypeVar("Row", bytes, Service)
PLAIN = ("pinned", "owners", "snat_reserved", "snats", "locals")
"""The tables that are written row by row as they are, in this order."""

OWNED = ("locals", "owners")
"""Those of them that say whose the TCP connections of a DIP's port are."""

Rows = Mapping[str, Mapping[bytes, bytes | None]]
"""Some rows of tables, by table and key; None for one that is not there."""

_SERVICES = "services"
_FIRST, _SECOND = slice(0, 4), slice(4, 8)
_ABOUT = {"pinned": _SECOND, _SERVICES: _SECOND}
"""Where in a key the address stands that a row is about: a VIP's, or in all other tables the first."""


@dataclass(frozen=True)
class Planned:
    """What changes in the tables but `slots`: rows by table and key, services by key; None for what goes."""

    vips: Mapping[IPv4Address, HostVip | None]
    plain: dict[str, dict[bytes, bytes | None]]
    services: dict[bytes, Service | None]


class Tables:
    """What stands in all tables but `slots`. `plan` says what a change of VIPs is to them; `commit` has it.

    From port `first_ephemeral` on, only a VIP's own port is surely a service's.
    """

    def __init__(self, first_ephemeral: int) -> None:
        self._first_ephemeral = first_ephemeral
        self.vips: dict[IPv4Address, HostVip] = {}
        self.services: dict[bytes, Service] = {}
        self.plain: dict[str, dict[bytes, bytes]] = {name: {} for name in PLAIN}
        self._at: defaultdict[IPv4Address, set[IPv4Address]] = defaultdict(set)
        self._keys: defaultdict[tuple[str, bytes], set[bytes]] = defaultdict(set)
        """The keys of the rows of a table that are about an address."""

    def touched(self, vips: Mapping[IPv4Address, HostVip | None]) -> set[IPv4Address]:
        """Return the DIPs and tunnel ends of VIPs, as they are and as they shall be."""
        versions = [version for vip, new in vips.items() for version in (self.vips.get(vip), new)]
        return {address for version in versions if version for address in _addresses(version)}

    def row(self, table: str, key: bytes) -> bytes | None:
        """Return the row of one of the `plain` tables at a key."""
        return self.plain[table].get(key)

    def plan(
        self,
        vips: Mapping[IPv4Address, HostVip | None],
        addresses: Iterable[IPv4Address],
        meters: Mapping[Metered, int],
        placed: Mapping[GroupKey, Placed | None],
        draining: Collection[IPv4Address],
    ) -> Planned:
        """Return what changes where VIPs become others (None: no more), in the rows of `addresses`, too.

        `placed` says where the slots are. DIPs that are `draining` do SNAT no more, but have connections.
        """
        plain: dict[str, dict[bytes, bytes | None]] = {name: {} for name in PLAIN}
        services: dict[bytes, Service | None] = {}

        def state(table: str, about: IPv4Address, rows: Iterable[tuple[bytes, bytes]]) -> None:
            gone = dict.fromkeys(self._keys.get((table, about.packed), ()))
            plain[table] |= _changes(self.plain[table], gone | dict(rows))

        for vip, new in vips.items():
            state("pinned", vip, _pinned(new, meters) if new else ())
            state("snat_reserved", vip, _reserved(new) if new else ())
            gone = dict.fromkeys(self._keys.get((_SERVICES, vip.packed), ()))
            wanted = dict(_services(new, meters, placed)) if new else {}
            services |= _changes(self.services, gone | wanted)
        for address in addresses:
            serving = self._serving(address, vips)
            snat = _snat(address, serving, meters, placed)
            outgoing = snat is not None or address in draining
            local, owners = _local(address, serving, meters, self._first_ephemeral, snat=outgoing)
            state("owners", address, owners)
            state("snats", address, [(address.packed, snat)] if snat else [])
            state("locals", address, [(address.packed, local)] if local else [])
        return Planned(vips, plain, services)

    def commit(self, planned: Planned) -> None:
        """Have what was planned."""
        for vip, new in planned.vips.items():
            old = self.vips.pop(vip, None)
            for address in _addresses(old) if old else ():
                self._at[address].discard(vip)
                if not self._at[address]:
                    del self._at[address]
            if new:
                self.vips[vip] = new
                for address in _addresses(new):
                    self._at[address].add(vip)
        for table, rows in planned.plain.items():
            self._have(table, self.plain[table], rows)
        self._have(_SERVICES, self.services, planned.services)

    def _have(self, table: str, held: dict[bytes, Row], rows: Mapping[bytes, Row | None]) -> None:
        at = _ABOUT.get(table, _FIRST)
        for key, row in rows.items():
            about = table, key[at]
            if row is not None:
                held[key] = row
                self._keys[about].add(key)
            else:
                del held[key]
                self._keys[about].discard(key)
                if not self._keys[about]:
                    del self._keys[about]

    def _serving(self, address: IPv4Address, vips: Mapping[IPv4Address, HostVip | None]) -> list[HostVip]:
        """Return the VIPs that have a DIP or tunnel end, once some are others, ordered by address."""
        found = [self.vips[vip] for vip in self._at.get(address, ()) if vip not in vips]
        found += [new for new in vips.values() if new and address in _addresses(new)]
        return sorted(found, key=lambda vip: vip.address)


def _changes(held: Mapping[bytes, Row], rows: Mapping[bytes, Row | None]) -> dict[bytes, Row | None]:
    return {key: row for key, row in rows.items() if held.get(key) != row}


def _addresses(vip: HostVip) -> set[IPv4Address]:
    return {address for dip in vip.dips for address in (dip.address, dip.tunnel_end)}


def slot_groups(vips: Iterable[HostVip]) -> Iterator[tuple[GroupKey, HostVip, HostGroup]]:
    """Yield every group whose slots the server has to know."""
    for vip in vips:
        for group in vip.groups:
            yield (vip.address, *group.key), vip, group


def slot_content(vip: HostVip, group: HostGroup, first: int) -> tuple[int, ...]:
    """Return what stands in `slots` from `first` on: the group's, then its TIPs', each behind its number."""
    tips = {tip.address: tip.share for tip in vip.tips}
    numbers = _numbers(vip)
    content: list[int] = []
    behind: list[int] = []
    heads: dict[IPv4Address, int] = {}
    for owner in _owners(group.share):
        if owner in tips:
            if owner not in heads:
                heads[owner] = first + len(group.share.slots) + len(behind)
                own = [numbers.get(member, 0) if member else 0 for member in _owners(tips[owner])]
                behind += [len(own), *own]
            content.append(_SLOT_TIP | heads[owner])
        else:
            content.append(numbers.get(owner, 0) if owner else 0)
    return (*content, *behind)


def owner_of(
    row_of: Callable[[str, bytes], bytes | None], dip: IPv4Address, port: int, first_ephemeral: int
) -> IPv4Address | None:
    """Return the VIP whose TCP connections a DIP's port has, where that needs no memory (bpf/common.h).

    `row_of` gives the row of a table (one of `OWNED`) at a key.
    """
    local = row_of("locals", dip.packed)
    if local is None:
        return None
    _, vip, _ = _LOCAL.unpack(local)
    row = row_of("owners", _OWNER_KEY.pack(dip.packed, port, _TCP))
    if row is not None:
        vip, _ = _OWNER.unpack(row)
    elif port >= first_ephemeral:
        return None
    return IPv4Address(vip) if any(vip) else None


def _numbers(vip: HostVip) -> dict[IPv4Address, int]:
    return {dip.address: number for number, dip in enumerate(vip.dips, start=1)}


def _owners(share: Share) -> Iterator[IPv4Address | None]:
    return (None if slot == ELSEWHERE else share.members[slot] for slot in share.slots)


def _services(
    vip: HostVip, meters: Mapping[Metered, int], placed: Mapping[GroupKey, Placed | None]
) -> Iterator[tuple[bytes, Service]]:
    numbers = _numbers(vip)
    ends: defaultdict[IPv4Address, list[HostDip]] = defaultdict(list)
    for dip in vip.dips:
        ends[dip.tunnel_end].append(dip)

    def service(key: tuple[int, int], dips: Sequence[HostDip], flags: int) -> Service:
        if not dips:
            return Single(IPv4Address(0), 0, flags | NONE)
        if len(dips) == 1:
            return Single(dips[0].address, meters[vip.address, dips[0].address], flags)
        slots = placed.get((vip.address, *key))
        head = _SHARED_END.pack(slots.first if slots else 0, slots.count if slots else 0, len(dips), 0)
        rows = (
            _SERVED.pack(dip.address.packed, meters[vip.address, dip.address], numbers[dip.address])
            for dip in dips
        )
        return Several((head + b"".join(rows)).ljust(SHARED_END_SIZE, b"\0"), flags)

    for end, dips in ends.items():
        by_port: defaultdict[tuple[int, int], list[HostDip]] = defaultdict(list)
        if len(dips) > 1 or not dips[0].default:
            for dip in dips:
                for port in dip.ports:
                    by_port[port.protocol.number, port.port].append(dip)
        groups = {_DEFAULT: [dip for dip in dips if dip.default], **by_port}
        for (protocol, number), members in groups.items():
            flags = PORTS if by_port and not protocol else 0
            key = _SERVICE_KEY.pack(end.packed, vip.address.packed, number, protocol)
            yield key, service((protocol, number), members, flags)


def _local(
    address: IPv4Address,
    vips: Sequence[HostVip],
    meters: Mapping[Metered, int],
    first_ephemeral: int,
    *,
    snat: bool,
) -> tuple[bytes | None, list[tuple[bytes, bytes]]]:
    """Return an address's row of `locals`, and those of `owners`: whose a DIP's replies are, by its address,
    or by its port, or unknown. `vips` are those that have it as DIP or tunnel end.
    """
    is_end = False
    serving: list[IPv4Address] = []
    default: list[IPv4Address] = []
    by_port: dict[int, list[IPv4Address]] = {}
    for vip in vips:
        for dip in vip.dips:
            is_end |= dip.tunnel_end == address
            if dip.address != address:
                continue
            serving.append(vip.address)
            if dip.default:
                default.append(vip.address)
            for port in dip.ports:
                if port.protocol is Protocol.TCP:
                    by_port.setdefault(port.port, []).append(vip.address)
    if not serving:
        return (_LOCAL.pack(_TUNNEL_END, _NOBODY, 0) if is_end else None), []
    flags = _DIP | (_TUNNEL_END if is_end else 0) | (_SNAT if snat else 0)
    one = default[0] if len(default) == 1 else None
    owners: list[tuple[bytes, bytes]] = []
    for number, candidates in by_port.items():
        several = {*candidates, *default}
        owner = several.pop() if len(several) == 1 else None
        if owner != one or number >= first_ephemeral:
            row = _OWNER.pack(*_metered(owner, address, meters))
            owners.append((_OWNER_KEY.pack(address.packed, number, _TCP), row))
            flags |= _BY_PORT
    return _LOCAL.pack(flags, *_metered(one, address, meters)), owners


def _metered(vip: IPv4Address | None, dip: IPv4Address, meters: Mapping[Metered, int]) -> tuple[bytes, int]:
    return (vip.packed, meters[vip, dip]) if vip else (_NOBODY, 0)


def _snat(
    address: IPv4Address,
    vips: Iterable[HostVip],
    meters: Mapping[Metered, int],
    placed: Mapping[GroupKey, Placed | None],
) -> bytes | None:
    """Return the row of a DIP's connections: the VIP with the lowest address has them, of those that have a
    slot for it if any has one.
    """
    chosen: bytes | None = None
    for vip in vips:
        number = _numbers(vip).get(address) if vip.snat else None
        if vip.snat is None or number is None:
            continue
        slots = placed.get((vip.address, *_DEFAULT))
        has_slot = slots is not None and number in slots.content[: slots.count]
        has_slot |= slots is not None and number in _behind_tips(slots)
        if chosen is None or has_slot:
            chosen = _SNAT_VALUE.pack(
                slots.first if slots and has_slot else 0,
                slots.count if slots and has_slot else 0,
                vip.address.packed,
                number if has_slot else 0,
                meters[vip.address, address],
                vip.snat.first_port,
                vip.snat.last_port,
            )
        if has_slot:
            break
    return chosen


def _behind_tips(slots: Placed) -> set[int]:
    found: set[int] = set()
    for head in {entry & ~_SLOT_TIP for entry in slots.content[: slots.count] if entry & _SLOT_TIP}:
        at = head - slots.first
        found.update(slots.content[at + 1 : at + 1 + slots.content[at]])
    return found


def _reserved(vip: HostVip) -> Iterator[tuple[bytes, bytes]]:
    for port in vip.snat.reserved if vip.snat else ():
        yield _OWNER_KEY.pack(vip.address.packed, port.port, port.protocol.number), struct.pack("=I", 1)


def _pinned(vip: HostVip, meters: Mapping[Metered, int]) -> Iterator[tuple[bytes, bytes]]:
    for flow in vip.pinned:
        key = _FLOW.pack(
            flow.source.packed, vip.address.packed, flow.source_port, flow.destination_port, flow.protocol
        )
        yield key, _CHOICE.pack(flow.dip.packed, meters[vip.address, flow.dip])
