"""Checks DIPs through the tunnel: outer destination the DIP, inner destination the VIP.

So what is proved is the whole way of clients' packets: fabric, server, host agent's data path, service. A
socket of X The DIP's answer comes straight back, as the answers of any VIP do.

A DIP behind a host (`Dip.host`) cannot be named by a tunnel to the host, which picks one of several; its host
agent checks it alone.
"""

from __future__ import annotations

import socket
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import chain
from typing import Self

from duet_p4 import netdev
from duet_p4.api.health import HealthReport
from duet_p4.bpf import Object, attach_tc, compile_object
from duet_p4.health.checks import Dial, connect
from duet_p4.health.monitor import HealthMonitor, Target
from duet_p4.model import VIP_CHECK, Checked, Dip, Group, HealthCheck, MuxTip, MuxVip
from duet_p4.smux.datapath import BPF_FOLDER

_TABLE = _PRIORITY = 47
_MARK = 1 << 30


class ProbeError(Exception):
    """The way of health checks cannot be made; the message says why."""


class Tunnels:
    """The way of checks out of this network namespace, with a mark for each tunnel's end. Needs root."""

    def __init__(self, address: IPv4Address, gateways: Mapping[str, IPv4Address]) -> None:
        """Have marked packets leave by the uplinks, through their gateways. Raises ProbeError, BpfError."""
        self._address = address
        self._marks: dict[IPv4Address, int] = {}
        self._stack = ExitStack()
        self._remove()
        self._stack.callback(self._remove)
        try:
            hops = [
                ("nexthop", "via", str(gateway), "dev", name, "onlink") for name, gateway in gateways.items()
            ]
            _ip("route", "replace", "default", "table", str(_TABLE), *chain.from_iterable(hops))
            marked = ("fwmark", f"{_MARK:#x}/{_MARK:#x}")
            _ip("rule", "add", *marked, "lookup", str(_TABLE), "priority", str(_PRIORITY))
            program = self._stack.enter_context(Object(compile_object(BPF_FOLDER / "probe.bpf.c")))
            program.load({"mux_address": address.packed, "mark_bit": struct.pack("=I", _MARK)})
            self._ends = program.map("ends")
            for uplink in gateways:
                # A VIP's answer comes by an uplink, although no route but that of marks leads to VIPs.
                netdev.set_ipv4_option(uplink, "rp_filter", 0)
                self._stack.enter_context(attach_tc(program.program("probe"), netdev.index(uplink), "egress"))
        except BaseException:
            self._stack.close()
            raise

    def dial(self, vip: IPv4Address, end: IPv4Address) -> Dial:
        """Return the way to a VIP through the tunnel that ends at `end`."""
        mark = self._mark(end)

        def send_through(client: socket.socket) -> None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            client.bind((str(self._address), 0))

        return lambda protocol, port: connect(protocol, vip, port, send_through)

    def close(self) -> None:
        """Remove all of it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _mark(self, end: IPv4Address) -> int:
        if end not in self._marks:
            mark = _MARK | len(self._marks) + 1
            self._ends.update(struct.pack("=I", mark), end.packed)
            self._marks[end] = mark
        return self._marks[end]

    def _remove(self) -> None:
        """Remove what this, or a predecessor that was killed, has made."""
        for words in (
            ("rule", "del", "priority", str(_PRIORITY)),
            ("route", "flush", "table", str(_TABLE)),
        ):
            subprocess.run(["ip", *words], check=False, capture_output=True)


class Prober:
    """The checks of the VIPs that an SMux holds; `changed` is called whenever a verdict does."""

    def __init__(self, tunnels: Tunnels, name: str, changed: Callable[[], None]) -> None:
        self._tunnels = tunnels
        self._name = name
        self._vips: dict[IPv4Address, MuxVip] = {}
        self._tips: dict[IPv4Address, MuxTip] = {}
        self._monitor = HealthMonitor(self._dial, changed)

    def put(self, entry: MuxVip | MuxTip) -> None:
        """Check a VIP's DIPs as it states now, or those of the VIPs that a TIP is of."""
        if isinstance(entry, MuxVip):
            if not _checks(entry) and entry.address not in self._vips:
                return
            self._vips[entry.address] = entry
            self._check(entry)
            return
        self._tips[entry.address] = entry
        for vip in self._vips.values():
            if any(member.address == entry.address for group in vip.groups() for member in group.members):
                self._check(vip)

    def delete(self, address: IPv4Address) -> None:
        """Check a VIP's DIPs no more; forget a TIP."""
        self._tips.pop(address, None)
        if self._vips.pop(address, None):
            self._monitor.delete_vip(address)

    def report(self) -> HealthReport:
        """Return every verdict."""
        return HealthReport(reporter=self._name, dips=tuple(self._monitor.health()))

    async def close(self) -> None:
        """Stop all checks."""
        await self._monitor.close()

    def _check(self, vip: MuxVip) -> None:
        self._monitor.put_vip(vip.address, targets(vip, self._tips))

    def _dial(self, vip: IPv4Address, dip: IPv4Address, target: Target) -> Dial:
        return self._tunnels.dial(vip, target.end or dip)


def targets(vip: MuxVip, tips: Mapping[IPv4Address, MuxTip]) -> dict[Checked, Target]:
    """Return whom a VIP's checks ask, and what: those behind `tips` too, and those out of service."""
    away: defaultdict[str, list[Dip]] = defaultdict(list)
    for one in vip.away:
        away[one.check].append(one.dip)
    return {
        Checked(dip.address, name): Target(what, dip.encap)
        for name, what, group in _checks(vip)
        for dip in (*_dips(group, tips), *away[name])
        if dip.host is None
    }


def _dips(group: Group, tips: Mapping[IPv4Address, MuxTip]) -> list[Dip]:
    dips: list[Dip] = []
    for member in group.members:
        tip = tips.get(member.address)
        dips += tip.group.members if tip else [member]
    return dips


def _checks(vip: MuxVip) -> list[tuple[str, HealthCheck, Group]]:
    """Return the checks of a VIP, by name, each with whom it asks.

    The VIP's own asks those that serve its port. A port's asks the group's, who all do.
    """
    found = [(port.name, port.health, port.group) for port in vip.ports if port.health is not None]
    if (own := vip.health) is not None:
        asked = [p.group for p in vip.ports if (p.protocol, p.port) == (own.protocol, own.port)]
        group = asked[0] if asked else vip.group
        if group is not None:
            found.append((VIP_CHECK, own, group))
    return found


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise ProbeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
