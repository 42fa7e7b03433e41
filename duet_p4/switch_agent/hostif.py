"""Host interfaces: a device for every front-panel port, on which the switch's IP stack and BIRD live.

What the P4 switch punts is received by the host interface of the port it came in by; what the stack sends
through a host interface leaves by its port. The CPU port between them is an interface, as on switches one
can buy: `CPU_ASIC` is the P4 switch's end (its port `CPU_PORT`), `CPU_STACK` the stack's. The frames on it
have the P4 program's packet_in and packet_out headers in front, which two XDP programs add and remove, so
BGP and ARP never wait for a process. All of it outlives the agent, and its successor takes it over.

`echo` sends a packet to the switch itself by way of a neighbour, and `echoes` says which came back last: they
show that the neighbour forwards, and wait for no process of either.

A host interface has its port's Ethernet address, MTU and carrier. What reaches it is what the stack has a use
for, from where it may come, and no more of it than a port's share of its class (`bpf/classes.h`).
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import struct
from collections.abc import Collection, Sequence
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from duet_p4 import bpf, netdev
from duet_p4.api.ports import Punted
from duet_p4.hmux import pipeline
from duet_p4.switch_agent.config import PortConfig

logger = logging.getLogger(__name__)

CPU_ASIC = "cpu-asic"
"""The P4 switch's end of the CPU port."""

CPU_STACK = "cpu-stack"
"""The stack's end of the CPU port."""

SOURCE = Path(__file__).with_name("bpf") / "hostif.bpf.c"
_BUCKET = struct.Struct("=QQQQ")
_COUNT = struct.Struct("=Q")

_CLASS = re.compile(r'X\((\w+),\s*\d+,\s*\d+,\s*"([^"]+)"\)')

CLASSES = dict(_CLASS.findall(SOURCE.with_name("classes.h").read_text(encoding="utf-8")))
"""What may reach the stack, with a sentence each, in table order."""
_CPU_MTU = 3000  # Native XDP on a veth wants a frame to fit a page.


def make_cpu_port(netlink: IPRoute) -> None:
    """Make the CPU port of the switch in this network namespace, before the P4 switch is started.

    Raises NetlinkError where there is one already.
    """
    netlink.link(
        "add",
        ifname=CPU_STACK,
        kind="veth",
        mtu=_CPU_MTU,
        peer={"ifname": CPU_ASIC, "mtu": _CPU_MTU},
    )
    for name in (CPU_ASIC, CPU_STACK):
        _mute(name)
        netlink.link("set", index=netdev.index(name), arp=False, state="up")
    # XDP can redirect into a veth only if its peer has NAPI. The xdp target turns it on; BMv2 does not.
    netdev.set_gro(CPU_ASIC, on=True)


class HostInterfaces:
    """The host interfaces of all ports: made, or taken over from an agent that died."""

    def __init__(
        self, ports: Sequence[PortConfig], speakers: Collection[str] = (), cpu_interface: str = CPU_STACK
    ) -> None:
        """Have them there, without carrier if they are new, and passing frames.

        `speakers` are the ports, by interface, at whose other end BGP is spoken; `cpu_interface` is the
        stack's end of the CPU port. Raises OSError naming the interface that is not there or cannot be made,
        and BpfError.
        """
        self._cpu_interface = cpu_interface
        cpu = netdev.index(cpu_interface)
        self._asic_ends = {port.number: f"{port.hostif}-asic" for port in ports}
        self._padding_bits = 16 - _port_bits()
        with IPRoute() as netlink:
            for port in ports:
                self._make(netlink, port)
            self._object = self._load(netlink, cpu, ports, speakers)
        self.echoes = self._object.map("echoes").mapped().cast("Q")
        """By port number, the token of the last echo that came back by it."""
        self._cpu = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._cpu.bind((cpu_interface, 0))
        self.indices = {netdev.index(port.hostif): port.number for port in ports}

    def set_carrier(self, port: int, up: bool) -> None:
        """Give a port's host interface carrier, or take it: the stack sees a cable plugged or pulled.

        Takes milliseconds.
        """
        netdev.set_up(self._asic_ends[port], up=up)

    def send(self, port: int, frame: bytes) -> None:
        """Send a frame out by a port, past the stack. Raises OSError where there is no room now."""
        self._cpu.send((port << self._padding_bits).to_bytes(2) + frame)

    def close(self) -> None:
        """Remove the host interfaces; not from within an event loop."""
        self._cpu.close()
        self._object.close()
        with IPRoute() as netlink:
            netlink.link("set", index=netdev.index(self._cpu_interface), xdp_fd=-1)
            for name in self._asic_ends.values():
                netlink.link("del", index=netdev.index(name))

    def _make(self, netlink: IPRoute, port: PortConfig) -> None:
        """Have a port's pair there."""
        asic_end = self._asic_ends[port.number]
        try:
            netlink.link("add", ifname=port.hostif, kind="veth", peer={"ifname": asic_end})
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise OSError(error.code, f"cannot make {port.hostif}: {error}") from error
        if netdev.is_enabled(port.hostif):
            return  # That is the last step: an earlier agent has done it all.
        for name in (port.hostif, asic_end):
            _mute(name)
        netdev.set_ipv4_option(port.hostif, "rp_filter", 0)
        netdev.set_ipv4_option(port.hostif, "arp_ignore", 1)
        index = netdev.index(port.hostif)
        netlink.link("set", index=index, address=port.mac, mtu=port.mtu)
        netlink.link("set", index=netdev.index(asic_end), mtu=port.mtu)
        netlink.addr(
            "replace", index=index, address=str(port.address.ip), prefixlen=port.address.network.prefixlen
        )
        # Frames must leave the stack whole: nobody behind it fills in checksums or cuts segments.
        netdev.set_transmit_offloads(port.hostif, on=False)
        netdev.set_gro(port.hostif, on=True)
        # The stack must not take what comes in by the port itself; the host interface gets that too. XDP
        # leaves nothing, but BMv2 only looks on. The stack has no route that leads out by a port, so with
        # reverse-path filtering no source is valid there.
        netlink.link("set", index=netdev.index(port.interface), arp=False)
        netdev.set_ipv4_option(port.interface, "rp_filter", 1)
        netdev.set_up(port.hostif, up=True)

    @property
    def program(self) -> bpf.Program:
        """What decides on packets to the stack."""
        return self._object.program("to_stack")

    def punted(self) -> list[Punted]:
        """Return what each port has sent towards the stack."""
        buckets, unwanted = self._object.map("buckets"), self._object.map("unwanted")
        found = []
        for number, name in self._asic_ends.items():
            for position, kind in enumerate(CLASSES):
                packed = buckets.lookup(_u32(number * len(CLASSES) + position))
                _, _, passed, limited = _BUCKET.unpack(packed or bytes(_BUCKET.size))
                found.append(
                    Punted(port=name.removesuffix("-asic"), kind=kind.lower(), passed=passed, dropped=limited)
                )
            (refused,) = _COUNT.unpack(unwanted.lookup(_u32(number)) or bytes(_COUNT.size))
            found.append(Punted(port=name.removesuffix("-asic"), kind="unwanted", passed=0, dropped=refused))
        return found

    def _load(
        self, netlink: IPRoute, cpu: int, ports: Sequence[PortConfig], speakers: Collection[str]
    ) -> bpf.Object:
        """Put the programs in place of those of an earlier agent; frames do not stop meanwhile."""
        path = bpf.compile_object(SOURCE, defines=defines())
        loaded = bpf.Object(path)
        try:
            loaded.load()
            for port in ports:
                speaks = int(port.interface in speakers)
                loaded.map("peers").update(_u32(port.number), port.peer.packed + _u32(speaks))
            loaded.map("cpu_port").update(_u32(0), _u32(cpu))
            ends = {number: netdev.index(name) for number, name in self._asic_ends.items()}
            for number, index in ends.items():
                loaded.map("hostifs").update(_u32(number), _u32(index))
                loaded.map("ports").update(_u32(index), _u32(number))
            # Attached without a link, so that the kernel keeps them when this process ends.
            for index in ends.values():
                netlink.link("set", index=index, xdp_fd=loaded.program("to_switch").fd)
            netlink.link("set", index=cpu, xdp_fd=loaded.program("to_stack").fd)
        except BaseException:
            loaded.close()
            raise
        return loaded


def defines() -> dict[str, str]:
    """Return what `SOURCE` is compiled with."""
    return {"PORT_BITS": str(_port_bits())}


def _port_bits() -> int:
    """Return the width of a port number in the controller headers, which is all they have beside padding.

    Raises ValueError where the P4 program's are not those that `hostif.bpf.c` writes and reads.
    """
    found = pipeline.schema().p4info.controller_packet_metadata
    widths = {tuple(field.bitwidth for field in header.metadata) for header in found}
    if len(widths) != 1 or len(widest := widths.pop()) != 2 or sum(widest) != 16:
        raise ValueError("packet_in and packet_out are not both a port number padded to 16 bits")
    return int(widest[0])


def _mute(name: str) -> None:
    """Have the stack say nothing of its own through an interface."""
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("1\n", encoding="ascii")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
