"""What the tables of bpf/maps.h shall hold, given the VIPs of a server: pure functions, no kernel."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

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


@dataclass(frozen=True)
class Contents:
    """All tables but `slots`; `plain` are those written as they are, by name."""

    services: dict[bytes, Single | Several]
    plain: dict[str, dict[bytes, bytes]]


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


def contents(
    vips: Sequence[HostVip],
    meters: Mapping[Metered, int],
    placed: Mapping[GroupKey, Placed],
    draining: Collection[IPv4Address],
    first_ephemeral: int,
) -> Contents:
    """Return all tables, given where the slots are. DIPs that are `draining` do SNAT no more, but still have
    connections of it; from port `first_ephemeral` on, only a VIP's own port is surely a service's.
    """
    snats = dict(_snats(vips, meters, placed))
    outgoing = {*(IPv4Address(key) for key in snats), *draining}
    locals_, owners = _locals(vips, meters, outgoing, first_ephemeral)
    return Contents(
        services={key: service for vip in vips for key, service in _services(vip, meters, placed)},
        plain={
            "pinned": dict(_pinned(vips, meters)),
            "owners": owners,
            "snat_reserved": dict(_reserved(vips)),
            "snats": snats,
            "locals": locals_,
        },
    )


def owner_of(
    plain: Mapping[str, Mapping[bytes, bytes]], dip: IPv4Address, port: int, first_ephemeral: int
) -> IPv4Address | None:
    """Return the VIP whose TCP connections a DIP's port has, where that needs no memory (bpf/common.h)."""
    local = plain["locals"].get(dip.packed)
    if local is None:
        return None
    _, vip, _ = _LOCAL.unpack(local)
    row = plain["owners"].get(_OWNER_KEY.pack(dip.packed, port, _TCP))
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
    vip: HostVip, meters: Mapping[Metered, int], placed: Mapping[GroupKey, Placed]
) -> Iterator[tuple[bytes, Single | Several]]:
    numbers = _numbers(vip)
    ends: defaultdict[IPv4Address, list[HostDip]] = defaultdict(list)
    for dip in vip.dips:
        ends[dip.tunnel_end].append(dip)

    def service(key: tuple[int, int], dips: Sequence[HostDip], flags: int) -> Single | Several:
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


def _locals(
    vips: Iterable[HostVip],
    meters: Mapping[Metered, int],
    snat: Collection[IPv4Address],
    first_ephemeral: int,
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return `locals` and `owners`: whose a DIP's replies are, by its address, or by its port, or unknown."""
    ends: set[IPv4Address] = set()
    default: defaultdict[IPv4Address, list[IPv4Address]] = defaultdict(list)
    by_port: defaultdict[IPv4Address, dict[int, list[IPv4Address]]] = defaultdict(dict)
    for vip in vips:
        for dip in vip.dips:
            ends.add(dip.tunnel_end)
            by_port[dip.address]
            if dip.default:
                default[dip.address].append(vip.address)
            for port in dip.ports:
                if port.protocol is Protocol.TCP:
                    by_port[dip.address].setdefault(port.port, []).append(vip.address)
    locals_: dict[bytes, bytes] = {end.packed: _LOCAL.pack(_TUNNEL_END, _NOBODY, 0) for end in ends}
    owners: dict[bytes, bytes] = {}
    for address, ports in by_port.items():
        flags = _DIP | (_TUNNEL_END if address in ends else 0) | (_SNAT if address in snat else 0)
        one = default[address][0] if len(default[address]) == 1 else None
        for number, serving in ports.items():
            candidates = {*serving, *default[address]}
            owner = candidates.pop() if len(candidates) == 1 else None
            if owner != one or number >= first_ephemeral:
                row = _OWNER.pack(*_metered(owner, address, meters))
                owners[_OWNER_KEY.pack(address.packed, number, _TCP)] = row
                flags |= _BY_PORT
        locals_[address.packed] = _LOCAL.pack(flags, *_metered(one, address, meters))
    return locals_, owners


def _metered(vip: IPv4Address | None, dip: IPv4Address, meters: Mapping[Metered, int]) -> tuple[bytes, int]:
    return (vip.packed, meters[vip, dip]) if vip else (_NOBODY, 0)


def _snats(
    vips: Iterable[HostVip], meters: Mapping[Metered, int], placed: Mapping[GroupKey, Placed]
) -> Iterator[tuple[bytes, bytes]]:
    """The VIP with the lowest address has a DIP's connections, of those with a slot for it if any has one."""
    chosen: dict[IPv4Address, tuple[bool, bytes]] = {}
    for vip in vips:
        if vip.snat is None:
            continue
        slots = placed.get((vip.address, *_DEFAULT))
        for address, number in _numbers(vip).items():
            has_slot = slots is not None and number in slots.content[: slots.count]
            has_slot |= slots is not None and number in _behind_tips(slots)
            if address in chosen and chosen[address][0] >= has_slot:
                continue
            chosen[address] = (
                has_slot,
                _SNAT_VALUE.pack(
                    slots.first if slots and has_slot else 0,
                    slots.count if slots and has_slot else 0,
                    vip.address.packed,
                    number if has_slot else 0,
                    meters[vip.address, address],
                    vip.snat.first_port,
                    vip.snat.last_port,
                ),
            )
    return ((address.packed, value) for address, (_, value) in chosen.items())


def _behind_tips(slots: Placed) -> set[int]:
    found: set[int] = set()
    for head in {entry & ~_SLOT_TIP for entry in slots.content[: slots.count] if entry & _SLOT_TIP}:
        at = head - slots.first
        found.update(slots.content[at + 1 : at + 1 + slots.content[at]])
    return found


def _reserved(vips: Iterable[HostVip]) -> Iterator[tuple[bytes, bytes]]:
    for vip in vips:
        for port in vip.snat.reserved if vip.snat else ():
            yield _OWNER_KEY.pack(vip.address.packed, port.port, port.protocol.number), struct.pack("=I", 1)


def _pinned(vips: Iterable[HostVip], meters: Mapping[Metered, int]) -> Iterator[tuple[bytes, bytes]]:
    for vip in vips:
        for flow in vip.pinned:
            key = _FLOW.pack(
                flow.source.packed, vip.address.packed, flow.source_port, flow.destination_port, flow.protocol
            )
            yield key, _CHOICE.pack(flow.dip.packed, meters[vip.address, flow.dip])
