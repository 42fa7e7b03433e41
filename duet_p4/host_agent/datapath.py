"""The host agent's data path: the programs of bpf/, their tables kept as `tables` says, what they learned.

Each change writes what it makes different: what is new first, what is gone last. Services change by one write
of a word each.
"""

from __future__ import annotations

import struct
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal

from duet_p4 import bpf, netdev
from duet_p4.allocation import Pool, TableFullError
from duet_p4.api.host import HostVip, Meter, Source
from duet_p4.bpf import clock
from duet_p4.flow_hash import Flow
from duet_p4.flows.samples import FlowSamples, odds, ring_bytes
from duet_p4.host_agent import tables
from duet_p4.host_agent.config import SnatTimeouts
from duet_p4.host_agent.connections import Connection
from duet_p4.host_agent.meters import Metered, Meters
from duet_p4.host_agent.tables import GroupKey, Placed, Planned, Several, Tables
from duet_p4.model import ANYBODY
from duet_p4.tracing.instrumented import Instrumented
from duet_p4.tracing.steps import Steps
from duet_p4.traffic import Traffic, add_up, read_exits

_BPF_FOLDER = Path(__file__).parent / "bpf"

SOURCE = _BPF_FOLDER / "host.bpf.c"

LAYOUT = 2
"""What the pinned maps mean; it changes with `bpf/maps.h`, where their sizes do not show it."""

EXITS = read_exits(_BPF_FOLDER / "counters.h")
"""What can happen to a packet of a VIP, with a sentence on whether that is normal, in table order."""

SLOTS = 262_144
_STATE = (
    *("flows", "probation", "choices", "ports_at_dip", "ports_at_client"),
    *("snat_in", "snat_out", "fragments"),
    *("meters", "metered", "sources", "counters"),
)
_INDEX = struct.Struct("=I")
_FLOW = struct.Struct("!4s4sHHB3x")
_ORIGIN = struct.Struct("=4sI4sIQ")
_NOVICE = struct.Struct("=4sIIIQ")
_ANSWERED = 1
_TRANSLATION = struct.Struct("=4s2sBxQQ")
_FIN, _RST = 1, 2
_METER = struct.Struct("=QQQQ")
_TCP, _ICMP, _UDP = 6, 1, 17
_EXHAUSTED = struct.Struct("!4s4sHBx")
_TIME = struct.Struct("=Q")
_NANOSECONDS = 1_000_000_000
_SETTLED_LIVES_S = 300
_NOVICE_LIVES_S = 30


@dataclass(frozen=True)
class Idle:
    """Outgoing connections that have been idle for too long, and the DIPs that still have others."""

    inward: tuple[bytes, ...]
    outward: tuple[bytes, ...]
    busy: frozenset[IPv4Address]
    live: int


@dataclass(frozen=True, order=True)
class Exhausted:
    """A DIP that found no source port (SNAT) for a connection to a destination; `port` is 0 for pings."""

    dip: IPv4Address
    remote: IPv4Address
    port: int
    protocol: int

    def __str__(self) -> str:
        """Say so in words."""
        if self.protocol == _ICMP:
            return f"DIP {self.dip} to {self.remote} (ping)"
        return f"DIP {self.dip} to {self.remote}:{self.port} ({'tcp' if self.protocol == _TCP else 'udp'})"


class HostDatapath:
    """Decapsulation, rewriting and SNAT of one server. `attach` makes it work on interfaces."""

    def __init__(
        self,
        *,
        flows: int = 65_536,
        snat_connections: int = 65_536,
        snat_exclude: Iterable[IPv4Network] = (),
        first_ephemeral_port: int = tables.FIRST_EPHEMERAL_PORT,
        pins: bpf.Pins | None = None,
        muxes: IPv4Network = ANYBODY,
        flow_key: int = 0,
        flow_sampling: int = 0,
    ) -> None:
        """Load the programs. With `pins` the data path outlives the process, and what it learned, too.

        Tunnels are taken from `muxes` only. `flow_key` is the key of the muxes' flow hashes.
        One packet in `flow_sampling` is a sample; 0 is none.

        From `first_ephemeral_port` on, a DIP's TCP port is one of a client of others unless a VIP states it.
        """
        self._pins = pins
        self._first_ephemeral = first_ephemeral_port
        self._object = bpf.Object(bpf.compile_object(SOURCE))
        self._rodata = {
            **clock.CONSTANTS,
            "first_ephemeral_port": _INDEX.pack(first_ephemeral_port),
            "mux_network": muxes.network_address.packed,
            "mux_mask": muxes.netmask.packed,
            "duet_flow_key": _INDEX.pack(flow_key),
            "flow_odds": odds(flow_sampling),
        }
        sizes = {
            "flows": flows,
            "choices": flows,
            "probation": max(64, flows // 4),
            "ports_at_dip": max(64, flows // 4),
            "ports_at_client": max(64, flows // 4),
            "snat_in": snat_connections,
            "snat_out": snat_connections,
            "slots": SLOTS,
            "flow_samples": ring_bytes(flow_sampling),
        }
        if pins:
            pins.load(self._object, _STATE, rodata=self._rodata, max_entries=sizes)
        else:
            self._object.load(self._rodata, max_entries=sizes)
        self.inbound = self._object.program("inbound")
        self.outbound = self._object.program("outbound")
        names = ("locals", "owners", "snats", "snat_reserved", "pinned", "services", "shared_ends", "slots")
        self._maps = {name: self._object.map(name) for name in (*names, "exhausted", *_STATE)}
        self._states = self._object.map("states").mapped().cast("Q")
        self.samples = FlowSamples(self._object)
        self._links: list[bpf.Link | bpf.Filter] = []
        self._interfaces = 0
        self._tables = Tables(first_ephemeral_port)
        self._numbers: dict[bytes, int] = {}
        self._rows: dict[bytes, int] = {}
        self._placed: dict[GroupKey, Placed | None] = {}
        self.pools = {
            name: Pool(name, size)
            for name, size in (
                ("services", self._maps["services"].max_entries),
                ("shared_ends", self._maps["shared_ends"].max_entries),
                ("slots", SLOTS),
            )
        }
        self._meters = Meters(self._maps["metered"], self._maps["meters"])
        self._busy = frozenset(IPv4Address(key[4:8]) for key, _ in self._maps["snat_out"].entries())
        exclude = self._object.map("snat_exclude")
        for network in snat_exclude:
            exclude.update(_INDEX.pack(network.prefixlen) + network.network_address.packed, _INDEX.pack(1))

    @property
    def loaded(self) -> bpf.Object:
        """The loaded object: its programs and maps."""
        return self._object

    def attach(self, ifindexes: Collection[int], mode: Literal["native", "skb"] = "native") -> None:
        """Serve interfaces of the caller's network namespace, in the place of a predecessor.

        Without pins that ends with this process, except that before Linux 6.6 `outbound` outlives kill -9:
        it goes on to rewrite replies of the flows it knows, until the next `attach` replaces it.
        """
        self._interfaces = len(ifindexes)
        attach_xdp = self._pins.attach_xdp if self._pins else bpf.attach_xdp
        attach_tc = self._pins.attach_tc if self._pins else bpf.attach_tc
        for ifindex in ifindexes:
            self._links.append(attach_xdp(self.inbound, ifindex, mode))
            self._links.append(attach_tc(self.outbound, ifindex, "egress"))
        if self._pins:
            self._pins.settle(self._links)

    def instrument(self) -> Instrumented:
        """Make a variant that tells what becomes of packets. See `Instrumented` for what it raises."""
        links = {"inbound": self._links[::2], "outbound": self._links[1::2]}
        return Instrumented(SOURCE, self._object, self._rodata, links, Steps(_BPF_FOLDER, EXITS))

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
        self.samples.close()
        self._object.close()

    def put_vip(self, vip: HostVip) -> int:
        """Serve a VIP as stated and return how many entries were written. Raises TableFullError."""
        return self._change({vip.address: vip})

    def replace(
        self,
        put: Iterable[HostVip],
        delete: Iterable[IPv4Address] = (),
        connections: Callable[[], Iterable[Connection]] = tuple,
    ) -> int:
        """Serve many VIPs as stated and others no more, all or nothing; raises and returns as `put_vip`.

        The TCP `connections` of the server stay whose they were, a VIP's or direct ones, though the ports of
        their DIPs may be another VIP's, or several VIPs', from now on.
        """
        return self._change(
            {**dict.fromkeys(delete), **{vip.address: vip for vip in put}}, connections=connections
        )

    def delete_vip(self, address: IPv4Address) -> int:
        """Stop to serve a VIP. Returns entries written."""
        return self._change({address: None})

    def meters(self) -> list[Meter]:
        """Return what each VIP's DIPs received and sent; VIPs that are gone for long may be missing."""
        held = self._meters.held
        rows = self._maps["meters"].lookup_range(0, 1 + max(held.values(), default=-1))
        found = []
        for (vip, dip), index in held.items():
            sums = [
                sum(column) for column in zip(*(_METER.unpack(value) for value in rows[index]), strict=True)
            ]
            found.append(Meter(vip, dip, *sums))
        return found

    def sources(self) -> list[Source]:
        """Return what came from where; prefixes that were silent for long may be missing."""
        table = self._maps["sources"]
        found = []
        for key, values in table.entries():
            vip, dip, source = (IPv4Address(key[at : at + 4]) for at in (0, 4, 8))
            traffic = add_up(table.split(values))
            found.append(Source(vip, dip, source, traffic.packets, traffic.bytes))
        return found

    def origin(self, flow: Flow) -> tuple[IPv4Address, int] | None:
        """Return the VIP and its port that a flow, as its DIP sees it, goes through.

        That is so for a client's flow and for an outgoing connection that does SNAT; None for a flow
        of the DIP's own.
        """
        key = _key(flow)
        found = {name: self._maps[name].lookup(key) for name in ("snat_out", "flows", "probation")}
        return self._origin(flow, *found.values())

    def live_flows(self, connections: Iterable[Connection]) -> Iterator[tuple[Connection, IPv4Address, int]]:
        """Yield the live flows that go through a VIP, with their DIP, and with the VIP and its port.

        Of TCP those of `connections`, the server's own sockets; of UDP those that had packets lately. It
        reads whole tables: nothing for an event loop.
        """
        settled, novices, outgoing = (
            dict(self._maps[name].entries()) for name in ("flows", "probation", "snat_out")
        )
        own_ports = dict(self._maps["ports_at_client"].entries())
        for flow, idle_s in connections:
            key = _key(flow)
            origin = self._origin(flow, outgoing.get(key), settled.get(key), novices.get(key))
            if origin:
                if own := own_ports.get(key):
                    flow = replace(flow, source_port=int.from_bytes(own[:2]))
                yield Connection(flow, idle_s), *origin
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for key in {*settled, *novices, *outgoing}:
            if key[12] != _UDP:
                continue
            seen = _last_seen(now, settled.get(key), novices.get(key), outgoing.get(key))
            remote, dip, remote_port, port, _ = _FLOW.unpack(key)
            flow = Flow(IPv4Address(remote), IPv4Address(dip), _UDP, remote_port, port)
            origin = self._origin(flow, outgoing.get(key), settled.get(key), novices.get(key))
            if seen is not None and origin:
                yield Connection(flow, max(0, now - seen) / _NANOSECONDS), *origin

    def exits(self) -> dict[str, Traffic]:
        """Return packets and bytes by the names of `EXITS`."""
        rows = self._maps["counters"].lookup_range(0, len(EXITS))
        return dict(zip(EXITS, map(add_up, rows), strict=True))

    def snat_connections(self) -> int:
        """Return how many outgoing connections are known."""
        return len(self._maps["snat_in"].entries())

    def exhausted(self, within_s: float) -> list[Exhausted]:
        """Return who found no port for an outgoing connection in the last `within_s`, and where to."""
        since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - within_s * _NANOSECONDS
        return sorted(
            Exhausted(IPv4Address(dip), IPv4Address(remote), port, protocol)
            for key, value in self._maps["exhausted"].entries()
            if _TIME.unpack(value)[0] > since
            for dip, remote, port, protocol in [_EXHAUSTED.unpack(key)]
        )

    def idle(self, timeouts: SnatTimeouts, *, pressed: bool = False) -> Idle:
        """Find outgoing connections that have been idle for long; changes nothing, so any thread may.

        Where ports run out (`pressed`) closed ones give back theirs sooner.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        outward = dict(self._maps["snat_out"].entries())
        gone: list[bytes] = []
        freed: list[bytes] = []
        busy: Counter[IPv4Address] = Counter()
        for key, value in self._maps["snat_in"].entries():
            remote, _, source_port, _, protocol = _FLOW.unpack(key)
            dip, port_bytes, back, answered, _ = _TRANSLATION.unpack(value)
            port = int.from_bytes(port_bytes)
            ports = (port, 0) if protocol == _ICMP else (source_port, port)
            outgoing = _FLOW.pack(remote, dip, *ports, protocol)
            forth, sent = 0, 0
            if outgoing in outward:
                _, _, forth, sent, _ = _TRANSLATION.unpack(outward[outgoing])
            limit = timeouts.limit(
                protocol,
                answered=bool(answered),
                closed=bool((back | forth) & _RST or back & forth & _FIN),
                pressed=pressed,
            )
            if now - max(answered, sent) > limit * _NANOSECONDS:
                gone.append(key)
                freed.append(outgoing)
            else:
                busy[IPv4Address(dip)] += 1
        return Idle(tuple(gone), tuple(freed), frozenset(busy), busy.total())

    def forget(self, idle: Idle) -> int:
        """Forget outgoing connections; return how many."""
        self._maps["snat_out"].delete_batch(idle.outward)
        self._maps["snat_in"].delete_batch(idle.inward)
        changed, self._busy = idle.busy ^ self._busy, idle.busy
        if changed:
            self._change({}, changed)
        return len(idle.inward)

    def _origin(
        self, flow: Flow, outgoing: bytes | None, settled: bytes | None, novice: bytes | None
    ) -> tuple[IPv4Address, int] | None:
        if outgoing is not None:
            address, port, *_ = _TRANSLATION.unpack(outgoing)
            return IPv4Address(address), int.from_bytes(port)
        vip: IPv4Address | None = None
        if settled is not None:
            vip = IPv4Address(settled[:4])
        elif novice is not None and flow.protocol != _TCP:
            vip = IPv4Address(novice[:4])
        elif flow.protocol == _TCP:
            port = flow.destination_port
            vip = tables.owner_of(self._tables.row, flow.destination, port, self._first_ephemeral)
            if vip is None and novice is not None:
                vip = IPv4Address(novice[:4])
        return None if vip in (None, flow.destination) else (vip, flow.destination_port)

    def _change(
        self,
        vips: Mapping[IPv4Address, HostVip | None],
        addresses: Collection[IPv4Address] = (),
        connections: Callable[[], Iterable[Connection]] = tuple,
    ) -> int:
        """Have VIPs be others (None: no more), and look anew at the rows of addresses. All or nothing."""
        held = self._tables.vips
        vips = {vip: new for vip, new in vips.items() if new or vip in held}
        before = [held[vip] for vip in vips if vip in held]
        after = [new for new in vips.values() if new]
        meters = self._meters.plan(_metered(after))
        touched = self._tables.touched(vips) | set(addresses)
        # Who did SNAT until now has connections of it, for all that is known.
        self._busy |= {address for address in touched if address.packed in self._tables.plain["snats"]}
        taken: list[tuple[str, int, int]] = []
        try:
            placed = self._place_slots(before, after, taken)
            planned = self._tables.plan(
                vips,
                touched,
                ChainMap(dict(meters), self._meters.held),
                ChainMap(placed, self._placed),
                self._busy,
            )
            self._check_room(planned)
            numbers = {
                key: self._take("services", 1, taken)
                for key, service in planned.services.items()
                if service is not None and key not in self._numbers
            }
            rows = {
                key: self._take("shared_ends", 1, taken)
                for key, service in planned.services.items()
                if isinstance(service, Several)
            }
            owned = {table: planned.plain.get(table, {}) for table in tables.OWNED}
            owned_before = {
                table: {key: self._tables.row(table, key) for key in changes}
                for table, changes in owned.items()
            }
            self._remember(connections, owned_before, owned)
            updates = self._write(planned, placed, numbers, rows)
        except (TableFullError, OSError):
            for name, first, count in taken:
                self.pools[name].cancel(first, count)
            raise
        self._meters.commit(meters, _metered(before) - _metered(after))
        self._numbers |= numbers
        self._tables.commit(planned)
        self._remember(connections, owned_before, owned)  # Those that have begun meanwhile.
        self._release(planned, placed, rows)
        return updates

    def _remember(
        self, connections: Callable[[], Iterable[Connection]], was: tables.Rows, will: tables.Rows
    ) -> None:
        """Note whose TCP connections are that rows do not say rightly any more, once they are others."""
        if was == will:
            return

        def owner(rows: tables.Rows, flow: Flow) -> IPv4Address | None:
            def row(table: str, key: bytes) -> bytes | None:
                return rows[table][key] if key in rows[table] else self._tables.row(table, key)

            return tables.owner_of(row, flow.destination, flow.destination_port, self._first_ephemeral)

        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for flow, _ in connections():
            vip = owner(was, flow)
            if vip == owner(will, flow):
                continue
            if vip is None and (novice := self._maps["probation"].lookup(_key(flow))):
                vip = IPv4Address(novice[:4])
            whose = vip or flow.destination
            meter = self._meters.held.get((whose, flow.destination), 0)
            with suppress(FileExistsError):
                self._maps["flows"].update(
                    _key(flow), _ORIGIN.pack(whose.packed, meter, bytes(4), 0, now), bpf.NOEXIST
                )

    def _check_room(self, planned: Planned) -> None:
        for name, rows in planned.plain.items():
            held, room = self._tables.plain[name], self._maps[name].max_entries
            growth = sum(1 if key not in held else -(row is None) for key, row in rows.items())
            if len(held) + growth > room:
                raise TableFullError(name, len(held), growth, room)

    def _take(self, name: str, count: int, taken: list[tuple[str, int, int]]) -> int:
        first = self.pools[name].allocate(count)
        taken.append((name, first, count))
        return first

    def _place_slots(
        self, before: Iterable[HostVip], after: Iterable[HostVip], taken: list[tuple[str, int, int]]
    ) -> dict[GroupKey, Placed | None]:
        """Return where the slots of VIPs stand once they are others; None where there are none any more."""
        placed: dict[GroupKey, Placed | None] = {key: None for key, _, _ in tables.slot_groups(before)}
        for key, vip, group in tables.slot_groups(after):
            old = self._placed.get(key)
            if old and old.content == tables.slot_content(vip, group, old.first):
                placed[key] = old
                continue
            first = self._take("slots", len(tables.slot_content(vip, group, 0)), taken)
            content = tables.slot_content(vip, group, first)
            placed[key] = Placed(first, content, len(group.share.slots))
        return placed

    def _write(
        self,
        planned: Planned,
        placed: Mapping[GroupKey, Placed | None],
        numbers: Mapping[bytes, int],
        rows: Mapping[bytes, int],
    ) -> int:
        """Write what is new where nobody looks yet, then have everybody look there; undone if it fails."""
        slots = [
            (_INDEX.pack(entry.first + at), _INDEX.pack(value))
            for group, entry in placed.items()
            if entry and self._placed.get(group) is not entry
            for at, value in enumerate(entry.content)
        ]
        self._maps["slots"].update_batch(slots)
        shared = [
            (_INDEX.pack(rows[key]), service.content)
            for key, service in planned.services.items()
            if isinstance(service, Several)
        ]
        self._maps["shared_ends"].update_batch(shared)
        updates = len(slots) + len(shared)
        written: list[str] = []
        try:
            for name, changes in planned.plain.items():
                written.append(name)
                updates += self._rewrite(name, changes)
            for key, number in numbers.items():
                self._states[number] = self._word(planned, key, rows)
            self._maps["services"].update_batch((key, _INDEX.pack(at)) for key, at in numbers.items())
        except OSError:
            self._undo(planned, written, numbers)
            raise
        changed = [key for key, service in planned.services.items() if service and key in self._numbers]
        for key in changed:
            self._states[self._numbers[key]] = self._word(planned, key, rows)
        return updates + len(numbers) + len(changed)

    def _word(self, planned: Planned, key: bytes, rows: Mapping[bytes, int]) -> int:
        service = planned.services[key]
        assert service is not None
        return service.word(rows[key]) if isinstance(service, Several) else service.word

    def _rewrite(self, name: str, changes: Mapping[bytes, bytes | None]) -> int:
        """Change rows of a table: what is new first, as far as there is room."""
        held = self._tables.plain[name]
        gone = [key for key, row in changes.items() if row is None]
        new = sum(key not in held for key in changes)
        if len(held) + new > self._maps[name].max_entries:
            self._maps[name].delete_batch(gone)
        self._maps[name].update_batch((key, row) for key, row in changes.items() if row is not None)
        self._maps[name].delete_batch(gone)
        return len(changes)

    def _undo(self, planned: Planned, written: Iterable[str], numbers: Collection[bytes]) -> None:
        """Have tables as they were before a write that the kernel refused half-way."""
        with suppress(OSError):
            self._maps["services"].delete_batch(numbers)
        for name in written:
            held, changes = self._tables.plain[name], planned.plain[name]
            with suppress(OSError):
                self._maps[name].delete_batch(key for key in changes if key not in held)
                self._maps[name].update_batch((key, held[key]) for key in changes if key in held)

    def _release(
        self, planned: Planned, placed: Mapping[GroupKey, Placed | None], rows: Mapping[bytes, int]
    ) -> None:
        """Give back what is used no more."""
        gone = [key for key, service in planned.services.items() if service is None]
        self._maps["services"].delete_batch(gone)
        for key in gone:
            self.pools["services"].release(self._numbers.pop(key), 1)
        for key in planned.services:
            if (row := self._rows.pop(key, None)) is not None:
                self.pools["shared_ends"].release(row, 1)
        self._rows |= rows
        for group, new in placed.items():
            old = self._placed.pop(group, None)
            if old and old is not new:
                self.pools["slots"].release(old.first, len(old.content))
            if new:
                self._placed[group] = new


def _metered(vips: Iterable[HostVip]) -> set[Metered]:
    return {(vip.address, dip.address) for vip in vips for dip in vip.dips}


def _key(flow: Flow) -> bytes:
    return _FLOW.pack(
        flow.source.packed, flow.destination.packed, flow.source_port, flow.destination_port, flow.protocol
    )


def _last_seen(now: int, settled: bytes | None, novice: bytes | None, outgoing: bytes | None) -> int | None:
    """Return when a UDP flow had its last packet, by the kernel's clock; None where that is too long ago."""
    if settled is not None:
        *_, seen = _ORIGIN.unpack(settled)
        if now - seen < _SETTLED_LIVES_S * _NANOSECONDS:
            return int(seen)
    elif novice is not None:
        *_, answered, seen = _NOVICE.unpack(novice)
        if answered & _ANSWERED and now - seen < _NOVICE_LIVES_S * _NANOSECONDS:
            return int(seen)
    return int(_TRANSLATION.unpack(outgoing)[3]) if outgoing is not None else None
