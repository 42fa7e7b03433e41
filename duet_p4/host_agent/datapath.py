"""The host agent's tables (bpf/maps.h), filled from `HostVip`.

They are small, so each change states them whole and writes the difference: what is new first, what is
gone last.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal

from duet_p4 import bpf, netdev
from duet_p4.allocation import Pool, TableFullError
from duet_p4.api.host import MAX_DIPS, HostDip, HostVip, Meter, Snat, Source
from duet_p4.flow_hash import Flow
from duet_p4.host_agent.config import SnatTimeouts
from duet_p4.model import Group
from duet_p4.traffic import Traffic, add_up, read_exits

_BPF_FOLDER = Path(__file__).parent / "bpf"

LAYOUT = 1
"""What the pinned maps mean; it changes with `bpf/maps.h`, where their sizes do not show it."""

EXITS = read_exits(_BPF_FOLDER / "counters.h")
"""What can happen to a packet of a VIP, with a sentence on whether that is normal, in table order."""

OWN_SLOTS = 65_536
_DIP, _TUNNEL_END, _SNAT = 1, 2, 4
_NOT_MINE, _MINE = 0, 1
_INDEX = struct.Struct("=I")
_SERVED = struct.Struct("=4sI")
_SNAT_VALUE = struct.Struct("=4sIIIHH")
_FLOW = struct.Struct("!4s4sHHB3x")
_TRANSLATION = struct.Struct("=4s2sBxQQ")
_METER = struct.Struct("=QQQQ")
_METERED = struct.Struct("=4s4s")
_STATE = ("flows", "snat_in", "snat_out", "fragments", "meters", "metered", "sources", "counters")
_TCP, _ICMP = 6, 1
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class _SnatSlots:
    """Where the slots of a DIP's VIP stand in `own_slots`, and what stands there."""

    first: int
    content: tuple[int, ...]
    count: int


class HostDatapath:
    """Decapsulation, rewriting and SNAT of one server. `attach` makes it work on an interface."""

    def __init__(
        self,
        *,
        flows: int = 16_384,
        snat_connections: int = 16_384,
        snat_exclude: Iterable[IPv4Network] = (),
        pins: bpf.Pins | None = None,
    ) -> None:
        """Load the programs. With `pins` the data path outlives the process, and what it learned, too."""
        self._pins = pins
        self._object = bpf.Object(bpf.compile_object(_BPF_FOLDER / "host.bpf.c"))
        sizes = {
            "flows": flows,
            "snat_in": snat_connections,
            "snat_out": snat_connections,
            "own_slots": OWN_SLOTS,
        }
        if pins:
            pins.load(self._object, _STATE, max_entries=sizes)
        else:
            self._object.load(max_entries=sizes)
        self.inbound = self._object.program("inbound")
        self.outbound = self._object.program("outbound")
        names = ("services", "locals", "snats", "own_slots", *_STATE)
        self._maps = {name: self._object.map(name) for name in names}
        self._links: list[bpf.Link | bpf.Filter] = []
        self._interfaces = 0
        self._vips: dict[IPv4Address, HostVip] = {}
        self._tables: dict[str, dict[bytes, bytes]] = {"services": {}, "locals": {}, "snats": {}}
        self._meters = self._metered()
        self._slots = Pool("own_slots", OWN_SLOTS)
        self._snat_slots: dict[IPv4Address, _SnatSlots] = {}
        exclude = self._object.map("snat_exclude")
        for network in snat_exclude:
            exclude.update(_INDEX.pack(network.prefixlen) + network.network_address.packed, _INDEX.pack(1))

    def attach(self, ifindexes: Collection[int], mode: Literal["native", "skb"] = "native") -> None:
        """Serve interfaces of the caller's network namespace, in the place of a predecessor.

        Without pins that ends with this process, except that before Linux 6.6 `outbound` outlives kill -9:
        it goes on to rewrite replies of the flows it knows, until the next `attach` replaces it.
        """
        self._interfaces = len(ifindexes)
        for ifindex in ifindexes:
            if self._pins:
                self._links.append(self._pins.attach_xdp(self.inbound, ifindex, mode))
                self._links.append(self._pins.attach_tc(self.outbound, ifindex, "egress"))
            else:
                self._links.append(bpf.attach_xdp(self.inbound, ifindex, mode))
                self._links.append(bpf.attach_tc(self.outbound, ifindex, "egress"))
        if self._pins:
            self._pins.settle(self._links)

    def serves(self, interface: str) -> bool:
        """Whether all programs are still on an interface: nobody detached them, nor made it anew."""
        try:
            ifindex = netdev.index(interface)
        except OSError:
            return False
        links = [link for link in self._links if isinstance(link, bpf.Link)]
        # There is one XDP link per interface, and beside it one of tc where the kernel has those.
        return sum(link.ifindex == ifindex for link in links) * self._interfaces == len(links)

    def close(self) -> None:
        """Let go: what is pinned goes on to serve, all else is detached and freed."""
        for link in self._links:
            if isinstance(link, bpf.Link) or not self._pins:
                link.close()
        self._links.clear()
        self._object.close()

    def put_vip(self, vip: HostVip) -> int:
        """Serve a VIP as stated and return how many entries were written. Raises TableFullError."""
        return self._become(self._vips | {vip.address: vip})

    def replace(self, put: Iterable[HostVip], delete: Iterable[IPv4Address] = ()) -> int:
        """Serve many VIPs as stated and others no more, all or nothing; raises and returns as `put_vip`."""
        kept = {vip: held for vip, held in self._vips.items() if vip not in set(delete)}
        return self._become(kept | {vip.address: vip for vip in put})

    def delete_vip(self, address: IPv4Address) -> int:
        """Stop to serve a VIP; connections that it has may still send. Returns entries written."""
        return self._become({vip: held for vip, held in self._vips.items() if vip != address})

    def meters(self) -> list[Meter]:
        """Return what each VIP's DIPs received and sent, of every VIP since the start."""
        rows = self._maps["meters"].lookup_range(0, 1 + max(self._meters.values(), default=-1))
        found = []
        for (vip, dip), index in self._meters.items():
            sums = [
                sum(column) for column in zip(*(_METER.unpack(value) for value in rows[index]), strict=True)
            ]
            found.append(Meter(vip, dip, *sums))
        return found

    def sources(self) -> list[Source]:
        """Return what came from where; prefixes that were silent for long may be missing."""
        table = self._maps["sources"]
        found = []
        for key in list(table.keys()):
            vip, dip, source = (IPv4Address(key[at : at + 4]) for at in (0, 4, 8))
            traffic = add_up(table.lookup_percpu(key))
            found.append(Source(vip, dip, source, traffic.packets, traffic.bytes))
        return found

    def origin(self, flow: Flow) -> tuple[IPv4Address, int] | None:
        """Return the VIP and its port that a flow, as its DIP sees it, goes through.

        That is so for a client's flow and for an outgoing connection that does SNAT; None for a flow
        of the DIP's own.
        """
        key = _FLOW.pack(
            flow.source.packed,
            flow.destination.packed,
            flow.source_port,
            flow.destination_port,
            flow.protocol,
        )
        value = self._maps["flows"].lookup(key)
        if value is not None:
            vip = IPv4Address(value[:4])
            return None if vip == flow.destination else (vip, flow.destination_port)
        value = self._maps["snat_out"].lookup(key)
        if value is None:
            return None
        address, port, *_ = _TRANSLATION.unpack(value)
        return IPv4Address(address), int.from_bytes(port)

    def exits(self) -> dict[str, Traffic]:
        """Return packets and bytes by the names of `EXITS`."""
        rows = self._maps["counters"].lookup_range(0, len(EXITS))
        return dict(zip(EXITS, map(add_up, rows), strict=True))

    def snat_connections(self) -> int:
        """Return how many outgoing connections are known."""
        return sum(1 for _ in iter(self._maps["snat_in"].keys()))

    def expire(self, timeouts: SnatTimeouts) -> int:
        """Forget outgoing connections that have been idle for long; return how many."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        expired = 0
        for key, value in list(self._maps["snat_in"].items()):
            remote, _, source_port, _, protocol = _FLOW.unpack(key)
            dip, port_bytes, closing, seen, _ = _TRANSLATION.unpack(value)
            port = int.from_bytes(port_bytes)
            ports = (port, 0) if protocol == _ICMP else (source_port, port)
            outgoing = _FLOW.pack(remote, dip, *ports, protocol)
            sent = self._maps["snat_out"].lookup(outgoing)
            if sent is not None:
                _, _, closing_too, seen_too, _ = _TRANSLATION.unpack(sent)
                closing, seen = closing | closing_too, max(seen, seen_too)
            limit = timeouts.other if protocol != _TCP else timeouts.closing if closing else timeouts.tcp
            if now - seen > limit * _NANOSECONDS:
                self._maps["snat_in"].delete(key)
                if sent is not None:
                    self._maps["snat_out"].delete(outgoing)
                expired += 1
        return expired

    def _become(self, vips: Mapping[IPv4Address, HostVip]) -> int:
        wanted = dict(sorted(vips.items()))
        meters = self._plan_meters(wanted.values())
        slots, fresh = self._plan_slots(wanted.values())
        tables = {
            "services": dict(_services(wanted.values(), meters)),
            "locals": _locals(wanted.values(), set(slots)),
            "snats": dict(_snats(wanted.values(), slots, meters)),
        }
        for name, content in tables.items():
            if len(content) > self._maps[name].max_entries:
                self._cancel(fresh)
                raise TableFullError(
                    name, len(self._tables[name]), len(content), self._maps[name].max_entries
                )
        for entry in fresh:
            self._maps["own_slots"].update_batch(
                (_INDEX.pack(entry.first + at), _INDEX.pack(value)) for at, value in enumerate(entry.content)
            )
        updates = sum(len(entry.content) for entry in fresh)
        for (vip, dip), index in meters.items() - self._meters.items():
            self._maps["metered"].update(_INDEX.pack(index), _METERED.pack(vip.packed, dip.packed))
        for name, content in tables.items():
            held = self._tables[name]
            changed = [(key, value) for key, value in content.items() if held.get(key) != value]
            for key, value in changed:
                self._maps[name].update(key, value)
            updates += len(changed)
        for name, content in reversed(tables.items()):
            gone = self._tables[name].keys() - content.keys()
            for key in gone:
                self._maps[name].delete(key)
            updates += len(gone)
        kept = set(slots.values())
        for old in self._snat_slots.values():
            if old not in kept:
                self._slots.release(old.first, len(old.content))
        self._vips, self._tables, self._meters, self._snat_slots = wanted, tables, meters, slots
        return updates

    def _metered(self) -> dict[tuple[IPv4Address, IPv4Address], int]:
        """Return whose the meters are, a predecessor's included."""
        table = self._maps["metered"]
        pairs = _METERED.iter_unpack(table.read(0, table.max_entries))
        return {
            (IPv4Address(vip), IPv4Address(dip)): index for index, (vip, dip) in enumerate(pairs) if any(vip)
        }

    def _plan_meters(self, vips: Iterable[HostVip]) -> dict[tuple[IPv4Address, IPv4Address], int]:
        """A VIP's meter on a DIP is never given to another: flows may outlive the VIP."""
        meters = dict(self._meters)
        for vip in vips:
            for dip in vip.dips:
                meters.setdefault((vip.address, dip.address), len(meters))
        if len(meters) > self._maps["meters"].max_entries:
            raise TableFullError(
                "meters",
                len(self._meters),
                len(meters) - len(self._meters),
                self._maps["meters"].max_entries,
            )
        return meters

    def _plan_slots(self, vips: Iterable[HostVip]) -> tuple[dict[IPv4Address, _SnatSlots], list[_SnatSlots]]:
        """Return the slots of each DIP that does SNAT, and those of them that are not written yet."""
        slots: dict[IPv4Address, _SnatSlots] = {}
        fresh: list[_SnatSlots] = []
        for vip in vips:
            if vip.snat is None:
                continue
            for dip in vip.dips:
                if dip.address in slots:
                    continue
                old = self._snat_slots.get(dip.address)
                if old and old.content == _own_slots(vip.snat, dip.address, old.first):
                    slots[dip.address] = old
                    continue
                size = len(_own_slots(vip.snat, dip.address, 0))
                try:
                    first = self._slots.allocate(size)
                except TableFullError:
                    self._cancel(fresh)
                    raise
                content = _own_slots(vip.snat, dip.address, first)
                slots[dip.address] = _SnatSlots(first, content, len(vip.snat.group.slots))
                fresh.append(slots[dip.address])
        return slots, fresh

    def _cancel(self, fresh: Iterable[_SnatSlots]) -> None:
        for entry in fresh:
            self._slots.cancel(entry.first, len(entry.content))


def _own_slots(snat: Snat, dip: IPv4Address, first: int) -> tuple[int, ...]:
    """Return what `own_slots` holds for a DIP from index `first` on: the VIP's slots, then those of TIPs."""
    tips = {tip.address: tip for tip in snat.tips}
    content: list[int] = []
    heads: dict[IPv4Address, int] = {}
    behind: list[int] = []
    for member in (snat.group.members[owner] for owner in snat.group.slots):
        tip = tips.get(member.address)
        if tip is None:
            content.append(_MINE if member.address == dip else _NOT_MINE)
            continue
        mine = _mine(tip.group, dip)
        if not any(mine):
            content.append(_NOT_MINE)
            continue
        if tip.address not in heads:
            heads[tip.address] = first + len(snat.group.slots) + len(behind)
            behind += [len(mine), *mine]
        content.append(heads[tip.address])
    return (*content, *behind)


def _mine(group: Group, dip: IPv4Address) -> list[int]:
    return [_MINE if group.members[owner].address == dip else _NOT_MINE for owner in group.slots]


def _services(
    vips: Iterable[HostVip], meters: Mapping[tuple[IPv4Address, IPv4Address], int]
) -> Iterable[tuple[bytes, bytes]]:
    for vip in vips:
        ends: defaultdict[IPv4Address, list[HostDip]] = defaultdict(list)
        for dip in vip.dips:
            ends[dip.tunnel_end].append(dip)
        for end, dips in ends.items():
            ports: defaultdict[tuple[int, int], list[HostDip]] = defaultdict(list)
            for dip in dips:
                for port in dip.ports:
                    ports[port.protocol.number, port.port].append(dip)
            groups = {(0, 0): [dip for dip in dips if not dip.ports], **ports}
            for (protocol, number), members in groups.items():
                key = struct.pack("!4s4sHBx", end.packed, vip.address.packed, number, protocol)
                served = b"".join(
                    _SERVED.pack(dip.address.packed, meters[vip.address, dip.address]) for dip in members
                )
                head = struct.pack("=II", len(members), bool(ports) and not protocol)
                yield key, head + served.ljust(_SERVED.size * MAX_DIPS, b"\0")


def _locals(vips: Iterable[HostVip], snat: set[IPv4Address]) -> dict[bytes, bytes]:
    flags: defaultdict[IPv4Address, int] = defaultdict(int)
    for vip in vips:
        for dip in vip.dips:
            flags[dip.address] |= _DIP | (_SNAT if dip.address in snat else 0)
            flags[dip.tunnel_end] |= _TUNNEL_END
    return {address.packed: _INDEX.pack(value) for address, value in flags.items()}


def _snats(
    vips: Iterable[HostVip],
    slots: Mapping[IPv4Address, _SnatSlots],
    meters: Mapping[tuple[IPv4Address, IPv4Address], int],
) -> Iterable[tuple[bytes, bytes]]:
    done: set[IPv4Address] = set()
    for vip in vips:
        for dip in vip.dips if vip.snat else ():
            if dip.address in done:
                continue  # The VIP with the lowest address has it.
            done.add(dip.address)
            assert vip.snat is not None
            own = slots[dip.address]
            yield (
                dip.address.packed,
                _SNAT_VALUE.pack(
                    vip.address.packed,
                    own.first,
                    own.count,
                    meters[vip.address, dip.address],
                    vip.snat.first_port,
                    vip.snat.last_port,
                ),
            )
