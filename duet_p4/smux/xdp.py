"""The XDP data path: the tables of bpf/maps.h, filled from `MuxVip` and `MuxTip`.

A change is made before the old state breaks: new DIPs and slots are written to free places, then each
service goes over to them by one write, and only then what is no longer used is given back.

With pins the data path outlives its process. What connections refer to, and they themselves, are then the
successor's, who knows each backend by its service and DIP; the rest it fills anew before it attaches.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from duet_p4 import bpf, netdev
from duet_p4.allocation import Pool, TableFullError
from duet_p4.bpf import clock
from duet_p4.flows.samples import FlowSamples, odds, ring_bytes
from duet_p4.model import ANYBODY, Dip, Group, MuxTip, MuxVip, PinnedFlow, Protocol
from duet_p4.smux import novices
from duet_p4.smux.datapath import (
    BPF_FOLDER,
    EXITS,
    Service,
    Sizes,
    Timeouts,
    Written,
)
from duet_p4.tracing.instrumented import Instrumented
from duet_p4.tracing.steps import Steps
from duet_p4.traffic import TRAFFIC, Traffic, add_up_each

SOURCE = BPF_FOLDER / "smux.bpf.c"

LAYOUT = 2
"""What the pinned maps mean; it changes with `bpf/maps.h`, where their sizes do not show it."""

MAX_UPLINKS = 4

_TIP, _PORTS, _PINNED = 1, 2, 4
_INDEX = struct.Struct("=I")
_NOTE = struct.Struct("!4sHBx4s")
_NOBODY = bytes(4)
_STATE_WORDS = 2
_STATE = (
    "backends",
    "backend_notes",
    "backend_traffic",
    "plain_traffic",
    "probation",
    "connections",
    "fragments",
    "counters",
)
_REFERENCE = struct.Struct("=II")
_BACKEND = struct.Struct("=4sIII")
_FLOW = struct.Struct("!4s4sHHB3x")


@dataclass(frozen=True)
class _Wanted:
    """What a service is to become; without a group, packets are dropped."""

    group: Group | None
    flags: int = 0


@dataclass
class _Held:
    """What the tables hold for a service."""

    counter: int
    first: int = 0
    group: Group | None = None
    flags: int = 0
    backends: dict[IPv4Address, int] = field(default_factory=dict)
    departed: Traffic = field(default_factory=Traffic)
    """What plain backends that have left it counted."""

    @property
    def plain(self) -> bool:
        """Whether it is a VIP without ports and pinned flows."""
        return not self.flags


@dataclass
class _Address:
    """What the tables hold for a VIP or TIP."""

    services: dict[Service, _Held] = field(default_factory=dict)
    pinned: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class XdpDatapath:
    """The SMux in XDP. Loaded on creation; `attach` makes it forward on an interface."""

    def __init__(
        self,
        mux_address: IPv4Address,
        announced: Iterable[IPv4Network],
        *,
        uplink_mtu: int = 1500,
        timeouts: Timeouts | None = None,
        sizes: Sizes | None = None,
        macs: Sequence[bytes] = (),
        pins: bpf.Pins | None = None,
        fragment_mux: IPv4Address | None = None,
        muxes: IPv4Network = ANYBODY,
        flow_key: int = 0,
        flow_sampling: int = 0,
    ) -> None:
        """Load the program. `macs` are the uplinks' own addresses; without them any frame is taken.

        `fragment_mux` is where HMuxes tunnel fragments of packets to VIPs, `muxes` has all of these, and
        `flow_key` is the key of all flow hashes (`duet_p4.flow_hash`). One packet in `flow_sampling` is a
        sample; 0 is none.
        """
        sizes, timeouts = sizes or Sizes(), timeouts or Timeouts()
        self._announced = tuple(announced)
        self._object = bpf.Object(bpf.compile_object(SOURCE))
        self._rodata = {
            **clock.CONSTANTS,
            "mux_address": mux_address.packed,
            "fragment_mux": (fragment_mux or IPv4Address(0)).packed,
            "mux_network": muxes.network_address.packed,
            "mux_mask": muxes.netmask.packed,
            "duet_flow_key": _INDEX.pack(flow_key),
            "flow_odds": odds(flow_sampling),
            "uplink_mtu": _INDEX.pack(uplink_mtu),
            "probation_mask": _INDEX.pack(sizes.probation // novices.GROUP - 1),
            "tcp_timeout": _nanoseconds(timeouts.tcp_s),
            "other_timeout": _nanoseconds(timeouts.other_s),
            "own_macs": b"".join(mac.ljust(8, b"\0") for mac in macs).ljust(8 * MAX_UPLINKS, b"\0"),
        }
        max_entries = {
            "services": sizes.services,
            "states": sizes.services,
            "service_traffic": sizes.services,
            "slots": sizes.slots,
            "backends": sizes.backends,
            "backend_notes": sizes.backends,
            "backend_traffic": sizes.backends,
            "plain_traffic": sizes.backends,
            "probation": sizes.probation // novices.GROUP,
            "connections": sizes.connections,
            "pinned": sizes.pinned,
            "flow_samples": ring_bytes(flow_sampling),
        }
        self._pins = pins
        if pins:
            movers = {"probation": partial(novices.move, key=flow_key)}
            pins.load(self._object, _STATE, rodata=self._rodata, max_entries=max_entries, movers=movers)
        else:
            self._object.load(self._rodata, max_entries=max_entries)
        self.program = self._object.program("smux")
        self._maps = {
            name: self._object.map(name)
            for name in ("services", "slots", "backends", "backend_notes", "pinned", "connections")
        }
        self._states = self._object.map("states").mapped().cast("Q")
        self._traffic = {
            name: self._object.map(name)
            for name in ("service_traffic", "backend_traffic", "plain_traffic", "counters")
        }
        self.samples = FlowSamples(self._object)
        self._links: list[bpf.Link] = []
        self._slots = Pool("slots", sizes.slots)
        self._backends = Pool("backends", sizes.backends)
        self._counters = Pool("services", sizes.services)
        self._generations: dict[int, int] = {}
        self._inherited: dict[tuple[Service, IPv4Address], int] = {}
        self._addresses: dict[IPv4Address, _Address] = {}
        self._departed: dict[IPv4Address, Traffic] = {}
        self._pinned_used = 0
        if pins:
            self._inherit()
        prefixes = self._object.map("announced")
        for prefix in self._announced:
            key = _INDEX.pack(prefix.prefixlen) + prefix.network_address.packed
            prefixes.update(key, _INDEX.pack(1))

    @property
    def loaded(self) -> bpf.Object:
        """The loaded object: its program and maps."""
        return self._object

    def attach(self, ifindexes: Collection[int], mode: Literal["native", "skb"] = "native") -> None:
        """Forward what arrives on interfaces, in the place of a predecessor; without pins, until closed.

        DIPs that the predecessor had and that were not put until now are parted from their connections.
        """
        for ifindex in ifindexes:
            attach = self._pins.attach_xdp if self._pins else bpf.attach_xdp
            self._links.append(attach(self.program, ifindex, mode))
        if self._pins:
            self._pins.settle(self._links)
        for index in self._inherited.values():
            self._part(index)
        self._inherited.clear()

    def instrument(self) -> Instrumented:
        """Make a variant that tells what becomes of packets. See `Instrumented` for what it raises."""
        return Instrumented(
            SOURCE, self._object, self._rodata, {"smux": self._links}, Steps(BPF_FOLDER, EXITS)
        )

    def forwards(self, interface: str) -> bool:
        """Whether the program is still on an interface: nobody detached it, nor made the interface anew."""
        try:
            ifindex = netdev.index(interface)
        except OSError:
            return False
        return any(link.ifindex == ifindex for link in self._links)

    def close(self) -> None:
        """Let go: what is pinned goes on to forward, all else is detached and freed."""
        for link in self._links:
            link.close()
        self._links.clear()
        self.samples.close()
        self._object.close()

    def put_vip(self, vip: MuxVip) -> Written:
        """See `Datapath.put_vip`."""
        wanted = {Service(vip.address, port.protocol, port.port): _Wanted(port.group) for port in vip.ports}
        flags = (_PORTS if vip.ports else 0) | (_PINNED if vip.pinned else 0)
        wanted = {service: _Wanted(want.group, flags) for service, want in wanted.items()}
        # The address itself last: it says that ports have groups of their own once they have.
        wanted[Service(vip.address)] = _Wanted(vip.group, flags)
        return self._replace(vip.address, wanted, vip.pinned)

    def delete_vip(self, address: IPv4Address) -> Written:
        """See `Datapath.delete_vip`."""
        return self._replace(address, {}, ())

    def put_tip(self, tip: MuxTip) -> Written:
        """See `Datapath.put_tip`."""
        return self._replace(tip.address, {Service(tip.address): _Wanted(tip.group, _TIP)}, ())

    def delete_tip(self, address: IPv4Address) -> Written:
        """See `Datapath.delete_tip`."""
        return self._replace(address, {}, ())

    def service_traffic(self) -> dict[Service, Traffic]:
        """See `Datapath.service_traffic`."""
        held = {s: h for entry in self._addresses.values() for s, h in entry.services.items()}
        counts = self._read("service_traffic", (h.counter for h in held.values()))
        plain = self._read("plain_traffic", (index for h in held.values() for index in h.backends.values()))
        return {
            service: sum(
                (plain[index] for index in entry.backends.values()), counts[entry.counter] + entry.departed
            )
            for service, entry in held.items()
        }

    def tunnel_traffic(self) -> dict[IPv4Address, Traffic]:
        """See `Datapath.tunnel_traffic`."""
        total = dict(self._departed)
        backends = list(self._live_backends())
        for name in ("backend_traffic", "plain_traffic"):
            counts = self._read(name, (index for index, _ in backends))
            for index, encap in backends:
                total[encap] = total.get(encap, Traffic()) + counts[index]
        return total

    def exits(self) -> dict[str, Traffic]:
        """See `Datapath.exits`."""
        return dict(zip(EXITS, self._read("counters", range(len(EXITS))).values(), strict=True))

    def table_use(self) -> dict[str, tuple[int, int]]:
        """See `Datapath.table_use`."""
        return {
            "services": (self._counters.used, self._counters.size),
            "slots": (self._slots.used, self._slots.size),
            "backends": (self._backends.used, self._backends.size),
            "pinned": (self._pinned_used, self._maps["pinned"].max_entries),
        }

    def _replace(
        self, address: IPv4Address, wanted: Mapping[Service, _Wanted], pins: tuple[PinnedFlow, ...]
    ) -> Written:
        began = time.perf_counter()
        before = self._addresses.get(address, _Address())
        after = self._plan(before, wanted)
        after.pinned = self._plan_pins(address, after, pins)
        extra = len(after.pinned) - len(before.pinned)
        if self._pinned_used + extra > self._maps["pinned"].max_entries:
            self._cancel(before, after)
            raise TableFullError(
                "pinned", self._pinned_used, len(after.pinned), self._maps["pinned"].max_entries
            )
        updates = self._write_dips(before, after)
        try:
            updates += self._write_pins(before, after)
        except OSError as error:
            self._cancel(before, after)
            raise TableFullError(
                "pinned", self._pinned_used, len(after.pinned), self._maps["pinned"].max_entries
            ) from error
        dips_done = time.perf_counter()
        updates += self._publish(before, after)
        self._pinned_used += extra
        if after.services:
            self._addresses[address] = after
        else:
            self._addresses.pop(address, None)
        done = time.perf_counter()
        return Written(updates, (dips_done - began) * 1e3, (done - dips_done) * 1e3)

    def _plan(self, before: _Address, wanted: Mapping[Service, _Wanted]) -> _Address:
        """Reserve a place for everything that is new."""
        after = _Address()
        try:
            for service, want in wanted.items():
                old = before.services.get(service)
                held = _Held(old.counter if old else self._counters.allocate(1), flags=want.flags)
                held.departed = old.departed if old else Traffic()
                after.services[service] = held
                if want.group is None:
                    continue
                for dip in want.group.members:
                    known = old.backends.get(dip.address) if old else None
                    held.backends[dip.address] = (
                        self._new_backend(service, dip.address) if known is None else known
                    )
                if old and old.group and _owners(old.group, old) == _owners(want.group, held):
                    held.first = old.first
                else:
                    held.first = self._slots.allocate(len(want.group.slots))
                held.group = want.group
        except TableFullError:
            self._cancel(before, after)
            raise
        return after

    def _cancel(self, before: _Address, after: _Address) -> None:
        for service, held in after.services.items():
            old = before.services.get(service)
            for index in set(held.backends.values()) - set(old.backends.values() if old else ()):
                self._backends.cancel(index, 1)
            if held.group and not (old and old.group and old.first == held.first):
                self._slots.cancel(held.first, len(held.group.slots))
            if old is None:
                self._counters.cancel(held.counter, 1)

    def _inherit(self) -> None:
        """Read which backends a predecessor has left, and for which DIPs of which services."""
        size = self._maps["backends"].max_entries
        backends = _BACKEND.iter_unpack(self._maps["backends"].read(0, size))
        notes = _NOTE.iter_unpack(self._maps["backend_notes"].read(0, size))
        for index, ((_, generation, _, _), (address, port, number, dip)) in enumerate(
            zip(backends, notes, strict=True)
        ):
            if generation:
                self._generations[index] = generation
            if dip != _NOBODY:
                protocol = next((p for p in Protocol if p.number == number), None)
                service = Service(IPv4Address(address), protocol, port or None)
                self._inherited[service, IPv4Address(dip)] = index
                self._backends.mark(index, taken=True)

    def _new_backend(self, service: Service, dip: IPv4Address) -> int:
        inherited = self._inherited.pop((service, dip), None)
        if inherited is not None:
            return inherited
        index = self._backends.allocate(1)
        self._generations[index] = self._generations.get(index, 0) + 1
        return index

    def _plan_pins(
        self, address: IPv4Address, after: _Address, pins: tuple[PinnedFlow, ...]
    ) -> dict[bytes, tuple[int, int]]:
        planned = {}
        for pin in pins:
            number = pin.protocol
            own = [
                held
                for service, held in after.services.items()
                if service.protocol
                and (service.protocol.number, service.port) == (number, pin.destination_port)
            ]
            index = next(
                held.backends[pin.dip]
                for held in (*own, *after.services.values())
                if pin.dip in held.backends
            )
            key = _FLOW.pack(pin.source.packed, address.packed, pin.source_port, pin.destination_port, number)
            planned[key] = (index, self._generations[index])
        return planned

    def _write_dips(self, before: _Address, after: _Address) -> int:
        counters: list[tuple[bytes, bytes]] = []
        backends: list[tuple[bytes, bytes]] = []
        notes: list[tuple[bytes, bytes]] = []
        slots: list[tuple[bytes, bytes]] = []
        for service, held in after.services.items():
            old = before.services.get(service)
            if held.group is None:
                continue
            encaps = _encaps(old) if old else {}
            for dip in held.group.members:
                index = held.backends[dip.address]
                kept = old if old and old.backends.get(dip.address) == index else None
                if kept is None:
                    counters.append((_INDEX.pack(index), bytes(TRAFFIC.size)))
                    notes.append((_INDEX.pack(index), _note(service, dip.address)))
                elif encaps[dip.address] == dip.encap:
                    continue
                # One that is kept becomes plain, or no longer is, as its service changes.
                backends.append((_INDEX.pack(index), self._backend(dip, index, (kept or held).plain)))
            if old is None or old.group is None or old.first != held.first:
                owners = _owners(held.group, held)
                slots += ((_INDEX.pack(held.first + at), _INDEX.pack(own)) for at, own in enumerate(owners))
        self._traffic["backend_traffic"].update_batch(counters)
        self._traffic["plain_traffic"].update_batch(counters)
        self._maps["backend_notes"].update_batch(notes)
        self._maps["backends"].update_batch(backends)
        self._maps["slots"].update_batch(slots)
        return len(backends) + len(slots)

    def _backend(self, dip: Dip, index: int, plain: bool) -> bytes:
        is_tip = any(dip.encap in prefix for prefix in self._announced)
        return _BACKEND.pack(dip.encap.packed, self._generations[index], is_tip, plain)

    def _write_pins(self, before: _Address, after: _Address) -> int:
        changed = [
            (key, _REFERENCE.pack(*to)) for key, to in after.pinned.items() if before.pinned.get(key) != to
        ]
        try:
            self._maps["pinned"].update_batch(changed)
        except OSError:
            # Those that are there already have room; the new ones go again.
            self._maps["pinned"].delete_batch(key for key, _ in changed if key not in before.pinned)
            self._maps["pinned"].update_batch(
                (key, _REFERENCE.pack(*to)) for key, to in before.pinned.items()
            )
            raise
        return len(changed)

    def _publish(self, before: _Address, after: _Address) -> int:
        """Switch over to the new services, then give back what only the old ones used."""
        updates = self._write_plain(before, after, plain=False)
        for service, held in after.services.items():
            old = before.services.get(service)
            if old is None:
                self._traffic["service_traffic"].update(_INDEX.pack(held.counter), bytes(TRAFFIC.size))
            word, flags = self._state(held)
            if old is None or self._state(old) != (word, flags):
                # The ports and pins that flags speak of are there, those that go as well: what is new of them
                # is said before the slots are others, and what goes is said after that.
                at = _STATE_WORDS * held.counter
                self._states[at + 1] = flags | (self._state(old)[1] if old else 0)
                self._states[at] = word
                self._states[at + 1] = flags
                updates += 1
            if old is None:
                self._maps["services"].update(_service_key(service), _INDEX.pack(held.counter))
        updates += self._write_plain(before, after, plain=True)
        gone = [service for service in before.services if service not in after.services]
        # The address itself first: without it, no packet asks for its ports.
        for service in sorted(gone, key=lambda service: service.port or 0):
            self._maps["services"].delete(_service_key(service))
            self._counters.release(before.services[service].counter, 1)
            updates += 1
        for key in before.pinned.keys() - after.pinned.keys():
            self._maps["pinned"].delete(key)
            updates += 1
        for service, old in before.services.items():
            updates += self._give_back(old, after.services.get(service))
        return updates

    def _write_plain(self, before: _Address, after: _Address, *, plain: bool) -> int:
        """Make plain, or no longer so, the backends of services that become so.

        Packets ask no service about its ports and pinned flows as long as its backends are plain.
        """
        changed = [
            index
            for service, held in after.services.items()
            if (old := before.services.get(service)) and old.plain != held.plain == plain
            for index in old.backends.values()
        ]
        for index in changed:
            self._rewrite(index, plain)
        return len(changed)

    def _rewrite(self, index: int, plain: bool) -> None:
        """Write a backend with its generation as it is now."""
        encap, _, is_tip, _ = _BACKEND.unpack(
            self._maps["backends"].lookup(_INDEX.pack(index)) or bytes(_BACKEND.size)
        )
        self._maps["backends"].update(
            _INDEX.pack(index), _BACKEND.pack(encap, self._generations[index], is_tip, plain)
        )

    def _give_back(self, old: _Held, new: _Held | None) -> int:
        if old.group and not (new and new.group and new.first == old.first):
            self._slots.release(old.first, len(old.group.slots))
        kept = set(new.backends.values()) if new else set()
        left = [(address, index) for address, index in old.backends.items() if index not in kept]
        encaps = _encaps(old) if left else {}
        for address, index in left:
            self._part(index)
            encap = encaps[address]
            plain = self._read("plain_traffic", [index])[index]
            count = self._read("backend_traffic", [index])[index] + plain
            self._departed[encap] = self._departed.get(encap, Traffic()) + count
            if new:
                new.departed += plain
        return len(left)

    def _part(self, index: int) -> None:
        """Part a DIP that has left its service from all of its connections, by one write."""
        self._generations[index] += 1
        self._rewrite(index, plain=False)
        self._maps["backend_notes"].update(_INDEX.pack(index), bytes(_NOTE.size))
        self._backends.release(index, 1)

    def _state(self, held: _Held) -> tuple[int, int]:
        count = len(held.group.slots) if held.group else 0
        return held.first | count << 32, held.flags

    def _live_backends(self) -> Iterable[tuple[int, IPv4Address]]:
        for entry in self._addresses.values():
            for held in entry.services.values():
                for dip in held.group.members if held.group else ():
                    yield held.backends[dip.address], dip.encap

    def _read(self, name: str, indices: Iterable[int]) -> dict[int, Traffic]:
        """Return the per-CPU sums of the given entries, in few system calls however many they are."""
        wanted = list(indices)
        if not wanted:
            return {}
        table = self._traffic[name]
        first, last = min(wanted), max(wanted)
        found = add_up_each(table.read(first, last - first + 1), table.cpus)
        return {index: found[index - first] for index in wanted}


def _owners(group: Group, held: _Held) -> list[int]:
    """Return the backend index of each slot."""
    indices = [held.backends[dip.address] for dip in group.members]
    return [indices[member] for member in group.slots]


def _encaps(held: _Held) -> dict[IPv4Address, IPv4Address]:
    """Return where each DIP is tunneled to."""
    return {dip.address: dip.encap for dip in held.group.members} if held.group else {}


def _note(service: Service, dip: IPv4Address) -> bytes:
    number = service.protocol.number if service.protocol else 0
    return _NOTE.pack(service.address.packed, service.port or 0, number, dip.packed)


def _nanoseconds(seconds: float) -> bytes:
    return struct.pack("=Q", round(seconds * 1_000_000_000))


def _service_key(service: Service) -> bytes:
    number = service.protocol.number if service.protocol else 0
    return struct.pack("!4sHBx", service.address.packed, service.port or 0, number)
