"""The SMux's data path in Scapy: the same packets in and out as XDP, to be read and stepped through.

`process` is one packet's way through the SMux, top to bottom. It is slow (thousands of packets per
second), holds its tables in Python, and is chosen by `datapath: scapy` in the agent's configuration.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from duet_p4.allocation import TableFullError
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import Dip, Group, MuxTip, MuxVip
from duet_p4.smux.datapath import EXITS, Service, Sizes, Timeouts, Written
from duet_p4.traffic import Traffic

ETHERNET_LENGTH = 14
OUTER_LENGTH = 20
OUTER_TTL = 64
_ICMP_ERRORS = {3, 4, 11, 12}
_ICMP_ECHOES = {0, 8}
_TCP, _UDP, _ICMP, _IPIP = 6, 17, 1, 4
_CONTROL = 0xC0
_IPV4 = b"\x08\x00"


class Verdict(Enum):
    """What becomes of a frame; the values are those of XDP."""

    DROP = 1
    PASS = 2
    SEND = 4


class Kind(Enum):
    """What kind of packet it is, as far as the choice of a DIP cares."""

    WHOLE = auto()
    TCP_SYN = auto()
    FRAGMENT = auto()
    ICMP_ERROR = auto()


@dataclass(frozen=True)
class Result:
    """A frame's fate: the verdict, the frame to send (or the unchanged one), and the exit's name."""

    verdict: Verdict
    frame: bytes
    exit: str


class _Leave(Exception):  # noqa: N818
    """Ends the way of a packet that is not encapsulated."""

    def __init__(self, how: str, verdict: Verdict = Verdict.DROP, frame: bytes | None = None) -> None:
        self.how = how
        self.verdict = verdict
        self.frame = frame


@dataclass
class _Connection:
    """The DIP of a flow, and the service whose DIP it is: the connection ends when it leaves there."""

    service: Service
    dip: Dip
    seen: float


class ScapyDatapath:
    """The SMux's tables as dictionaries, and `process`."""

    def __init__(
        self,
        mux_address: IPv4Address,
        announced: Iterable[IPv4Network],
        *,
        uplink_mtu: int = 1500,
        timeouts: Timeouts | None = None,
        sizes: Sizes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mux_address = mux_address
        self._announced = tuple(announced)
        self._mtu = uplink_mtu
        self._timeouts = timeouts or Timeouts()
        self._sizes = sizes or Sizes()
        self._clock = clock
        self._vips: dict[IPv4Address, MuxVip] = {}
        self._tips: dict[IPv4Address, MuxTip] = {}
        self._connections: OrderedDict[Flow, _Connection] = OrderedDict()
        self._service_traffic: defaultdict[Service, Traffic] = defaultdict(Traffic)
        self._tunnel_traffic: defaultdict[IPv4Address, Traffic] = defaultdict(Traffic)
        self._exits: dict[str, Traffic] = {name: Traffic() for name in EXITS}

    def process(self, frame: bytes) -> Result:
        """Take one frame as it came from the wire through the SMux."""
        try:
            result = self._forward(frame)
        except _Leave as leave:
            result = Result(leave.verdict, frame if leave.frame is None else leave.frame, leave.how)
        self._exits[result.exit] += Traffic(1, len(frame))
        return result

    def _forward(self, frame: bytes) -> Result:
        # What is not for a VIP or TIP belongs to the kernel.
        if len(frame) < ETHERNET_LENGTH or frame[12:14] != _IPV4:
            raise _Leave("PASS_NOT_IPV4", Verdict.PASS)
        ethernet = Ether(frame[:ETHERNET_LENGTH])
        packet = frame[ETHERNET_LENGTH:]
        if len(packet) < OUTER_LENGTH or frame[0] & 1:
            raise _Leave("PASS_LOCAL", Verdict.PASS)
        destination = IPv4Address(packet[16:20])
        if destination not in self._vips and destination not in self._tips:
            if any(destination in prefix for prefix in self._announced):
                raise _Leave("DROP_UNKNOWN_VIP")
            raise _Leave("PASS_LOCAL", Verdict.PASS)

        # A packet to a TIP was encapsulated by an HMux; the client's packet is inside.
        tip = self._tips.get(destination)
        inner = packet
        if not tip and packet[9] == _IPIP:
            raise _Leave("DROP_TUNNELED_VIP")
        if tip:
            header = parse_header(packet)
            if header.proto != _IPIP or header.ihl != 5 or _is_fragment(header):
                raise _Leave("DROP_BARE_TIP")
            inner = packet[OUTER_LENGTH:]
        header = parse_header(inner)
        flow, kind = parse_flow(header, inner)

        # The service: one port of the VIP if that has DIPs of its own, else the address.
        service, group = self._service(destination, flow)
        if group is None:
            raise _Leave("DROP_NO_GROUP")

        # Packets that must not go on, and what their sender is told.
        from_host = 0 < IPv4Address(header.src).packed[0] < 224
        answerable = kind is not Kind.ICMP_ERROR and header.frag == 0 and from_host
        if header.ttl <= 1:
            if not answerable:
                raise _Leave("DROP_TTL_EXPIRED")
            raise self._reply(ethernet, header, inner, ICMP(type=11, code=0), "REPLY_TTL")
        if header.len + OUTER_LENGTH > self._mtu:
            if not answerable or not header.flags.DF:
                raise _Leave("DROP_TOO_BIG")
            too_big = ICMP(type=3, code=4, nexthopmtu=self._mtu - OUTER_LENGTH)
            raise self._reply(ethernet, header, inner, too_big, "REPLY_TOO_BIG")

        dip, how = self._choose(service, group, flow, kind)
        self._service_traffic[service] += Traffic(1, len(frame))
        self._tunnel_traffic[dip.encap] += Traffic(1, len(frame))

        # IP-in-IP, and back to the ToR that brought the frame.
        outer = IP(
            src=str(self._mux_address),
            dst=str(dip.encap),
            ttl=OUTER_TTL,
            proto=_IPIP,
            tos=header.tos,
            id=header.id,
            flags="DF" if header.flags.DF else 0,
            len=header.len + OUTER_LENGTH,
        )
        sent = bytes(Ether(src=ethernet.dst, dst=ethernet.src) / outer) + decrement_ttl(inner)
        return Result(Verdict.SEND, sent, how)

    def _service(self, address: IPv4Address, flow: Flow) -> tuple[Service, Group | None]:
        if address in self._tips:
            return Service(address), self._tips[address].group
        vip = self._vips[address]
        for port in vip.ports:
            if (port.protocol.number, port.port) == (flow.protocol, flow.destination_port):
                return Service(address, port.protocol, port.port), port.group
        return Service(address), vip.group

    def _choose(self, service: Service, group: Group, flow: Flow, kind: Kind) -> tuple[Dip, str]:
        """Pick the DIP: the flow's pin, else its connection's, else by hash."""
        pin = self._pinned(service.address, flow)
        if pin:
            return pin, "FORWARD_PINNED"
        if kind is Kind.FRAGMENT:
            return self._pick(service, group, flow)[1], "FORWARD_FRAGMENT"
        if kind is not Kind.TCP_SYN:
            remembered = self._remembered(flow, refresh=kind is not Kind.ICMP_ERROR)
            if remembered:
                return remembered, "FORWARD_ICMP_ERROR" if kind is Kind.ICMP_ERROR else "FORWARD_CONNECTION"
        owner, dip = self._pick(service, group, flow)
        if kind is Kind.ICMP_ERROR:
            return dip, "FORWARD_ICMP_ERROR"
        self._connections[flow] = _Connection(owner, dip, self._clock())
        self._connections.move_to_end(flow)
        if len(self._connections) > self._sizes.connections:
            self._connections.popitem(last=False)
        return dip, "FORWARD_HASH"

    def _pinned(self, address: IPv4Address, flow: Flow) -> Dip | None:
        vip = self._vips.get(address)
        for pin in vip.pinned if vip else ():
            if (pin.protocol, pin.source, pin.source_port, pin.destination_port) == (
                flow.protocol,
                flow.source,
                flow.source_port,
                flow.destination_port,
            ):
                assert vip is not None
                return next(dip for g in vip.groups() for dip in g.members if dip.address == pin.dip)
        return None

    def _remembered(self, flow: Flow, *, refresh: bool) -> Dip | None:
        connection = self._connections.get(flow)
        if connection is None:
            return None
        idle = self._clock() - connection.seen
        if idle > (self._timeouts.tcp_s if flow.protocol == _TCP else self._timeouts.other_s):
            return None
        if refresh:
            connection.seen = self._clock()
            self._connections.move_to_end(flow)
        return connection.dip

    def _pick(self, service: Service, group: Group, flow: Flow) -> tuple[Service, Dip]:
        """By hash, both levels: where the slot's owner is a TIP that is known here, its DIP too."""
        if service.address in self._tips:
            return service, group.member(tip_hash(flow))
        member = group.member(flow_hash(flow))
        tip = self._tips.get(member.encap)
        if tip:
            return Service(tip.address), tip.group.member(tip_hash(flow))
        return service, member

    def _reply(self, ethernet: Ether, header: IP, inner: bytes, error: ICMP, how: str) -> _Leave:
        """Answer the client with an ICMP error that quotes the header and 8 bytes of its packet."""
        quoted = header.ihl * 4 + 8
        if header.len < quoted:
            return _Leave("DROP_MALFORMED")
        outer = IP(src=str(self._mux_address), dst=header.src, ttl=OUTER_TTL, id=0, tos=_CONTROL, flags="DF")
        answer = Ether(src=ethernet.dst, dst=ethernet.src) / outer / error / inner[:quoted]
        return _Leave(how, Verdict.SEND, bytes(answer))

    def put_vip(self, vip: MuxVip) -> Written:
        """See `Datapath.put_vip`."""
        began = time.perf_counter()
        services = {Service(vip.address): vip.group}
        services |= {Service(vip.address, port.protocol, port.port): port.group for port in vip.ports}
        others = [held for address, held in self._vips.items() if address != vip.address]
        self._check_room(
            sum(1 + len(held.ports) for held in others) + len(self._tips), len(services), "services"
        )
        changed = self._vips.get(vip.address) != vip
        self._vips[vip.address] = vip
        self._purge(vip.address, services)
        return Written(int(changed), 0.0, (time.perf_counter() - began) * 1e3)

    def delete_vip(self, address: IPv4Address) -> Written:
        """See `Datapath.delete_vip`."""
        del self._vips[address]
        self._purge(address, {})
        return Written(1, 0.0, 0.0)

    def put_tip(self, tip: MuxTip) -> Written:
        """See `Datapath.put_tip`."""
        self._check_room(
            sum(1 + len(held.ports) for held in self._vips.values())
            + sum(1 for address in self._tips if address != tip.address),
            1,
            "services",
        )
        changed = self._tips.get(tip.address) != tip
        self._tips[tip.address] = tip
        self._purge(tip.address, {Service(tip.address): tip.group})
        return Written(int(changed), 0.0, 0.0)

    def delete_tip(self, address: IPv4Address) -> Written:
        """See `Datapath.delete_tip`."""
        del self._tips[address]
        self._purge(address, {})
        return Written(1, 0.0, 0.0)

    def service_traffic(self) -> dict[Service, Traffic]:
        """See `Datapath.service_traffic`."""
        held = [Service(address) for address in (*self._vips, *self._tips)]
        held += [Service(vip.address, p.protocol, p.port) for vip in self._vips.values() for p in vip.ports]
        return {service: self._service_traffic[service] for service in held}

    def tunnel_traffic(self) -> dict[IPv4Address, Traffic]:
        """See `Datapath.tunnel_traffic`."""
        return dict(self._tunnel_traffic)

    def exits(self) -> dict[str, Traffic]:
        """See `Datapath.exits`."""
        return dict(self._exits)

    def table_use(self) -> dict[str, tuple[int, int]]:
        """See `Datapath.table_use`."""
        return {
            "services": (len(self.service_traffic()), self._sizes.services),
            "connections": (len(self._connections), self._sizes.connections),
        }

    def close(self) -> None:
        """Nothing to free."""

    def _check_room(self, used: int, wanted: int, table: str) -> None:
        if used + wanted > self._sizes.services:
            raise TableFullError(table, used, wanted, self._sizes.services)

    def _purge(self, address: IPv4Address, services: dict[Service, Group | None]) -> None:
        """Forget the connections of DIPs that have left the services of `address`."""
        for flow, connection in list(self._connections.items()):
            if connection.service.address != address:
                continue
            group = services.get(connection.service)
            dip = (
                next((d for d in group.members if d.address == connection.dip.address), None)
                if group
                else None
            )
            if dip is None:
                del self._connections[flow]
            else:
                connection.dip = dip


def parse_header(packet: bytes) -> IP:
    """Return the IPv4 header, checked: version, lengths, checksum."""
    header_length = (packet[0] & 0xF) * 4 if packet else 0
    if not OUTER_LENGTH <= header_length <= len(packet) or packet[0] >> 4 != 4:
        raise _Leave("DROP_MALFORMED")
    header = IP(packet[:OUTER_LENGTH])
    if checksum(packet[:header_length]) != 0 or not header_length <= header.len <= len(packet):
        raise _Leave("DROP_MALFORMED")
    return header


def parse_flow(header: IP, packet: bytes) -> tuple[Flow, Kind]:
    """Return the packet's flow and kind; an ICMP error belongs to the flow that it quotes, turned around."""
    source, destination = IPv4Address(header.src), IPv4Address(header.dst)
    l4 = packet[header.ihl * 4 :]
    if _is_fragment(header):
        return Flow(source, destination, header.proto, 0, 0), Kind.FRAGMENT
    if header.proto == _TCP:
        source_port, destination_port = _unpack(l4, 20)
        syn = l4[13] & 0x12 == 0x02
        kind = Kind.TCP_SYN if syn else Kind.WHOLE
        return Flow(source, destination, _TCP, source_port, destination_port), kind
    if header.proto == _UDP:
        return Flow(source, destination, _UDP, *_unpack(l4, 8)), Kind.WHOLE
    if header.proto == _ICMP:
        _unpack(l4, 8)
        if l4[0] in _ICMP_ECHOES:
            return Flow(source, destination, _ICMP, _identifier(l4), 0), Kind.WHOLE
        if l4[0] in _ICMP_ERRORS:
            return _quoted_flow(l4[8:], destination), Kind.ICMP_ERROR
    return Flow(source, destination, header.proto, 0, 0), Kind.WHOLE


def _quoted_flow(quoted: bytes, sender: IPv4Address) -> Flow:
    """Return the flow that the quoted packet answers. Its checksum and length may be anything."""
    if len(quoted) < OUTER_LENGTH or quoted[0] >> 4 != 4 or quoted[0] & 0xF < 5:
        raise _Leave("DROP_MALFORMED")
    header = IP(quoted[:OUTER_LENGTH])
    if IPv4Address(header.src) != sender:
        raise _Leave("DROP_MALFORMED")
    l4 = quoted[header.ihl * 4 :]
    source_port = destination_port = 0
    if header.frag == 0:
        if header.proto in (_TCP, _UDP):
            destination_port, source_port = _unpack(l4, 4)
        elif header.proto == _ICMP:
            _unpack(l4, 8)
            source_port = _identifier(l4) if l4[0] in _ICMP_ECHOES else 0
    return Flow(IPv4Address(header.dst), sender, header.proto, source_port, destination_port)


def decrement_ttl(packet: bytes) -> bytes:
    """Return the packet with its TTL one lower and the checksum to match."""
    header = bytearray(packet[: (packet[0] & 0xF) * 4])
    header[8] -= 1
    header[10:12] = b"\0\0"
    header[10:12] = struct.pack("!H", checksum(bytes(header)))
    return bytes(header) + packet[len(header) :]


def _is_fragment(header: IP) -> bool:
    return bool(header.flags.MF) or header.frag != 0


def _unpack(l4: bytes, length: int) -> tuple[int, int]:
    """Return the two ports of an L4 header that must have `length` bytes."""
    if len(l4) < length:
        raise _Leave("DROP_MALFORMED")
    first, second = struct.unpack_from("!HH", l4)
    return first, second


def _identifier(icmp: bytes) -> int:
    (identifier,) = struct.unpack_from("!H", icmp, 4)
    return int(identifier)
