"""The SMux's data path in Scapy: the same packets in and out as XDP, to be read and stepped through.

`process` is one packet's way through the SMux, top to bottom. It is slow (thousands of packets per
second), holds its tables in Python, and is chosen by `datapath: scapy` in the agent's configuration.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from duet_p4.allocation import TableFullError
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import ANYBODY, Dip, Group, MuxTip, MuxVip
from duet_p4.smux.datapath import EXITS, Service, Sizes, Timeouts, Written
from duet_p4.traffic import Traffic

ETHERNET_LENGTH = 14
OUTER_LENGTH = 20
OUTER_TTL = 64
_ICMP_ERRORS = {3, 4, 11, 12}
_ICMP_ECHOES = {0, 8}
_TCP, _UDP, _ICMP, _IPIP = 6, 17, 1, 4
_CONTROL = 0xC0
_QUOTED_AT = 48
_LEAST_MTU = 68
_FIRST_SNAT_PORT = 1024
_WINDOW_S = 2**24 / 1e9
_PER_WINDOW = {"settle": 256, "reply": 64}
_REASSEMBLY_S = 30.0
_FRAGMENTS = 8192
_ECN, _ECT_1, _CE = 3, 1, 3
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
    TCP_FIN = auto()
    TCP_RST = auto()
    FRAGMENT = auto()
    ICMP_ERROR = auto()


@dataclass(frozen=True)
class Result:
    """A frame's fate: the verdict, the frame to send (or the unchanged one), and the exit's name."""

    verdict: Verdict
    frame: bytes
    exit: str


Key = TypeVar("Key")


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
    closing: bool = False


_Fragment = tuple[IPv4Address, IPv4Address, int, int]


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
        macs: Sequence[bytes] = (),
        clock: Callable[[], float] = time.monotonic,
        fragment_mux: IPv4Address | None = None,
        muxes: IPv4Network = ANYBODY,
        flow_key: int = 0,
    ) -> None:
        self._fragment_mux = fragment_mux
        self._muxes = muxes
        self._flow_key = flow_key
        self._mux_address = mux_address
        self._announced = tuple(announced)
        self._mtu = uplink_mtu
        self._timeouts = timeouts or Timeouts()
        self._sizes = sizes or Sizes()
        self._macs = frozenset(macs)
        self._clock = clock
        self._windows: dict[str, tuple[int, int]] = {}
        self._vips: dict[IPv4Address, MuxVip] = {}
        self._tips: dict[IPv4Address, MuxTip] = {}
        self._probation: OrderedDict[Flow, _Connection] = OrderedDict()
        self._connections: OrderedDict[Flow, _Connection] = OrderedDict()
        self._fragments: OrderedDict[_Fragment, _Connection] = OrderedDict()
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
        if self._macs and frame[:6] not in self._macs:
            raise _Leave("PASS_FOREIGN", Verdict.PASS)
        destination = IPv4Address(packet[16:20])
        handed_over = destination == self._fragment_mux and packet[9] == _IPIP
        if handed_over:
            header = parse_header(packet)
            if header.ihl != 5 or _is_fragment(header) or len(packet) < 2 * OUTER_LENGTH:
                raise _Leave("DROP_MALFORMED")
            if IPv4Address(header.src) not in self._muxes:
                raise _Leave("DROP_NOT_A_MUX")
            destination = IPv4Address(packet[OUTER_LENGTH + 16 : OUTER_LENGTH + 20])
        if destination not in self._vips and destination not in self._tips:
            if handed_over:
                raise _Leave("DROP_UNKNOWN_VIP")
            if destination == self._mux_address and packet[9] == _ICMP:
                raise self._relayed_error(ethernet, packet)
            if self._is_announced(destination):
                raise _Leave("DROP_UNKNOWN_VIP")
            raise _Leave("PASS_LOCAL", Verdict.PASS)

        # A packet to a TIP was encapsulated by an HMux, and so was a fragment; the client's packet is inside.
        tip = self._tips.get(destination)
        inner, mark = packet, 0
        if not tip and packet[OUTER_LENGTH + 9 if handed_over else 9] == _IPIP:
            raise _Leave("DROP_TUNNELED_VIP")
        if tip and handed_over:
            raise _Leave("DROP_BARE_TIP")
        if tip or handed_over:
            header = parse_header(packet)
            if header.proto != _IPIP or header.ihl != 5 or _is_fragment(header):
                raise _Leave("DROP_BARE_TIP")
            if IPv4Address(header.src) not in self._muxes:
                raise _Leave("DROP_NOT_A_MUX")
            inner, mark = packet[OUTER_LENGTH:], header.tos & _ECN
        header = parse_header(inner)
        flow, kind = parse_flow(header, inner)
        if not _is_host(header.src):
            raise _Leave("DROP_MARTIAN")
        if mark == _CE and not header.tos & _ECN:
            raise _Leave("DROP_ECN")

        # The service: one port of the VIP if that has DIPs of its own, else the address.
        service, group = self._service(destination, flow, kind)
        if group is None and kind is not Kind.FRAGMENT:
            raise _Leave("DROP_NO_GROUP")
        if kind is Kind.WHOLE and self._is_vip_to_vip(flow):
            raise _Leave("DROP_VIP_TO_VIP")

        # Packets that must not go on, and what their sender is told.
        answerable = kind not in (Kind.ICMP_ERROR, Kind.FRAGMENT)
        if header.ttl <= 1:
            if not answerable:
                raise _Leave("DROP_TTL_EXPIRED")
            raise self._reply(ethernet, header, inner, ICMP(type=11, code=0), "REPLY_TTL")
        if header.len + OUTER_LENGTH > self._mtu:
            if not answerable or not header.flags.DF:
                raise _Leave("DROP_TOO_BIG")
            too_big = ICMP(type=3, code=4, nexthopmtu=self._mtu - OUTER_LENGTH)
            raise self._reply(ethernet, header, inner, too_big, "REPLY_TOO_BIG")

        # A later fragment goes where the first went, a flow where its first packet went.
        fragment = (flow.source, flow.destination, int(header.id), flow.protocol)
        if kind is Kind.FRAGMENT:
            chosen, how = self._follow_first(fragment), "FORWARD_FRAGMENT"
        else:
            assert group is not None
            chosen, how = self._choose(service, group, flow, kind)
        if header.flags.MF and header.frag == 0:
            self._remember(self._fragments, fragment, chosen, _FRAGMENTS)
        dip = chosen.dip
        self._service_traffic[service] += Traffic(1, len(frame))
        self._tunnel_traffic[dip.encap] += Traffic(1, len(frame))

        # IP-in-IP, and back to the ToR that brought the frame. The outer packet is whole by itself.
        sent_inner = decrement_ttl(_carry_ecn(mark, inner))
        outer = IP(
            src=str(self._mux_address),
            dst=str(dip.encap),
            ttl=OUTER_TTL,
            proto=_IPIP,
            tos=sent_inner[1],
            id=0,
            flags="DF",
            len=header.len + OUTER_LENGTH,
        )
        sent = bytes(Ether(src=ethernet.dst, dst=ethernet.src) / outer) + sent_inner
        return Result(Verdict.SEND, sent, how)

    def _is_announced(self, address: IPv4Address) -> bool:
        return any(address in prefix for prefix in self._announced)

    def _is_vip_to_vip(self, flow: Flow) -> bool:
        """Whether one VIP's service seems to talk to another's: each answer would be answered."""
        low = max(flow.source_port, flow.destination_port) < _FIRST_SNAT_PORT
        return flow.protocol == _UDP and low and self._is_announced(flow.source)

    def _service(self, address: IPv4Address, flow: Flow, kind: Kind) -> tuple[Service, Group | None]:
        if address in self._tips:
            return Service(address), self._tips[address].group
        vip = self._vips[address]
        for port in vip.ports if kind is not Kind.FRAGMENT else ():
            if (port.protocol.number, port.port) == (flow.protocol, flow.destination_port):
                return Service(address, port.protocol, port.port), port.group
        return Service(address), vip.group

    def _choose(self, service: Service, group: Group, flow: Flow, kind: Kind) -> tuple[_Connection, str]:
        """Pick the DIP: the flow's pin, else its connection's, else by hash."""
        pin = self._pinned(service, flow)
        if pin:
            return pin, "FORWARD_ICMP_ERROR" if kind is Kind.ICMP_ERROR else "FORWARD_PINNED"
        if kind is Kind.TCP_SYN:
            self._connections.pop(flow, None)
        else:
            followed = self._follow(flow, kind)
            if followed:
                return followed
        owner, dip = self._pick(service, group, flow)
        picked = _Connection(owner, dip, self._clock())
        if kind is Kind.ICMP_ERROR:
            return picked, "FORWARD_ICMP_ERROR"
        if kind in (Kind.TCP_RST, Kind.TCP_FIN):
            return picked, "FORWARD_MIDSTREAM"
        # A TIP that is not known here picks elsewhere, or here once it is: nothing to remember.
        if not self._is_announced(dip.encap):
            self._remember(self._probation, flow, picked, self._sizes.probation)
        midstream = flow.protocol == _TCP and kind is not Kind.TCP_SYN
        return picked, "FORWARD_MIDSTREAM" if midstream else "FORWARD_HASH"

    def _follow(self, flow: Flow, kind: Kind) -> tuple[_Connection, str] | None:
        """What is remembered of a flow; the second packet of one settles it in the connection table."""
        settled = self._alive(self._connections, flow, kind)
        if settled:
            if kind is Kind.TCP_RST:
                del self._connections[flow]
            settled.closing |= kind is Kind.TCP_FIN
            return settled, "FORWARD_ICMP_ERROR" if kind is Kind.ICMP_ERROR else "FORWARD_CONNECTION"
        first = self._alive(self._probation, flow, kind)
        if first is None:
            return None
        if kind is Kind.ICMP_ERROR:
            return first, "FORWARD_ICMP_ERROR"
        if kind is Kind.TCP_RST:
            del self._probation[flow]
            return first, "FORWARD_CONNECTION"
        if not self._admits("settle"):
            return first, "FORWARD_UNSETTLED"
        first.closing = kind is Kind.TCP_FIN
        self._remember(self._connections, flow, self._probation.pop(flow), self._sizes.connections)
        return first, "FORWARD_CONNECTION"

    def _follow_first(self, fragment: _Fragment) -> _Connection:
        first = self._fragments.get(fragment)
        if first is None or self._clock() - first.seen > _REASSEMBLY_S:
            raise _Leave("DROP_FRAGMENT")
        return first

    def _admits(self, what: str) -> bool:
        """Whether what is limited to so many in each window of 16.8 ms may be done once more."""
        window = int(self._clock() / _WINDOW_S)
        began, count = self._windows.get(what, (window, 0))
        count = count if began == window else 0
        self._windows[what] = (window, count + 1)
        return count < _PER_WINDOW[what]

    def _remember(
        self, table: OrderedDict[Key, _Connection], key: Key, entry: _Connection, size: int
    ) -> None:
        table[key] = _Connection(entry.service, entry.dip, self._clock(), entry.closing)
        table.move_to_end(key)
        if len(table) > size:
            table.popitem(last=False)

    def _pinned(self, service: Service, flow: Flow) -> _Connection | None:
        vip = self._vips.get(service.address)
        for pin in vip.pinned if vip else ():
            if (pin.protocol, pin.source, pin.source_port, pin.destination_port) == (
                flow.protocol,
                flow.source,
                flow.source_port,
                flow.destination_port,
            ):
                assert vip is not None
                dip = next(dip for g in vip.groups() for dip in g.members if dip.address == pin.dip)
                return _Connection(service, dip, self._clock())
        return None

    def _alive(self, table: OrderedDict[Flow, _Connection], flow: Flow, kind: Kind) -> _Connection | None:
        entry = table.get(flow)
        if entry is None:
            return None
        idle = self._clock() - entry.seen
        is_open = flow.protocol == _TCP and not entry.closing
        if idle > (self._timeouts.tcp_s if is_open else self._timeouts.other_s):
            return None
        if kind is not Kind.ICMP_ERROR:
            entry.seen = self._clock()
            table.move_to_end(flow)
        return entry

    def _pick(self, service: Service, group: Group, flow: Flow) -> tuple[Service, Dip]:
        """By hash, both levels: where the slot's owner is a TIP that is known here, its DIP too."""
        if service.address in self._tips:
            return service, group.member(tip_hash(flow, self._flow_key))
        member = group.member(flow_hash(flow, self._flow_key))
        tip = self._tips.get(member.encap)
        if tip:
            return Service(tip.address), tip.group.member(tip_hash(flow, self._flow_key))
        return service, member

    def _reply(self, ethernet: Ether, header: IP, inner: bytes, error: ICMP, how: str) -> _Leave:
        """Answer the client with an ICMP error that quotes the header and 8 bytes of its packet."""
        quoted = header.ihl * 4 + 8
        if header.len < quoted:
            return _Leave("DROP_MALFORMED")
        if not self._admits("reply"):
            return _Leave("DROP_REPLY_LIMIT")
        outer = IP(src=str(self._mux_address), dst=header.src, ttl=OUTER_TTL, id=0, tos=_CONTROL, flags="DF")
        answer = Ether(src=ethernet.dst, dst=ethernet.src) / outer / error / inner[:quoted]
        return _Leave(how, Verdict.SEND, bytes(answer))

    def _relayed_error(self, ethernet: Ether, packet: bytes) -> _Leave:
        """Tell the client what a router says of its packet, which we had tunneled (RFC 2003, 4)."""
        try:
            header = parse_header(packet)
            quoted = packet[_QUOTED_AT:]
            if len(quoted) < OUTER_LENGTH or header.ihl != 5 or _is_fragment(header):
                raise _Leave("PASS_LOCAL")
            outer, inner = IP(packet[28:_QUOTED_AT]), IP(quoted[:OUTER_LENGTH])
        except _Leave:
            return _Leave("PASS_LOCAL", Verdict.PASS)
        kind, code = packet[20], packet[21]
        whole = inner.ihl * 4 + 8
        of_ours = (outer.ihl, outer.proto, outer.src) == (5, _IPIP, str(self._mux_address))
        known = IPv4Address(inner.dst) in self._vips or IPv4Address(inner.dst) in self._tips
        if (
            kind not in (3, 11)
            or not of_ours
            or inner.version != 4
            or inner.ihl < 5
            or not known
            or not _is_host(inner.src)
            or inner.frag
            or min(inner.len, len(quoted)) < whole
        ):
            return _Leave("PASS_LOCAL", Verdict.PASS)
        if (kind, code) != (3, 4):
            return self._reply(ethernet, inner, quoted, ICMP(type=3, code=1), "REPLY_TUNNEL")
        (mtu,) = struct.unpack_from("!H", packet, 26)
        if mtu < OUTER_LENGTH + _LEAST_MTU:
            return _Leave("PASS_LOCAL", Verdict.PASS)
        error = ICMP(type=3, code=4, nexthopmtu=mtu - OUTER_LENGTH)
        return self._reply(ethernet, inner, quoted, error, "REPLY_TUNNEL")

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

    def forwards(self, interface: str) -> bool:
        """It does as long as this process reads the interface."""
        return True

    def close(self) -> None:
        """Nothing to free."""

    def _check_room(self, used: int, wanted: int, table: str) -> None:
        if used + wanted > self._sizes.services:
            raise TableFullError(table, used, wanted, self._sizes.services)

    def _purge(self, address: IPv4Address, services: dict[Service, Group | None]) -> None:
        """Forget the connections of DIPs that have left the services of `address`."""
        self._purge_table(self._probation, address, services)
        self._purge_table(self._connections, address, services)
        self._purge_table(self._fragments, address, services)

    def _purge_table(
        self,
        table: OrderedDict[Key, _Connection],
        address: IPv4Address,
        services: dict[Service, Group | None],
    ) -> None:
        for flow, connection in list(table.items()):
            if connection.service.address != address:
                continue
            group = services.get(connection.service)
            dip = (
                next((d for d in group.members if d.address == connection.dip.address), None)
                if group
                else None
            )
            if dip is None:
                del table[flow]
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
    if header.frag:
        return Flow(source, destination, header.proto, 0, 0), Kind.FRAGMENT
    if header.proto == _TCP:
        source_port, destination_port = _unpack(l4, 20)
        return Flow(source, destination, _TCP, source_port, destination_port), _tcp_kind(l4[13])
    if header.proto == _UDP:
        return Flow(source, destination, _UDP, *_unpack(l4, 8)), Kind.WHOLE
    if header.proto == _ICMP:
        _unpack(l4, 8)
        if l4[0] in _ICMP_ECHOES:
            return Flow(source, destination, _ICMP, _identifier(l4), 0), Kind.WHOLE
        if l4[0] in _ICMP_ERRORS:
            if _is_fragment(header):
                raise _Leave("DROP_MALFORMED")
            # What stands behind the packet, as padding of the frame, is no quote.
            quoted = packet[header.ihl * 4 + 8 : header.len]
            return _quoted_flow(quoted, destination), Kind.ICMP_ERROR
    return Flow(source, destination, header.proto, 0, 0), Kind.WHOLE


def _tcp_kind(flags: int) -> Kind:
    if flags & 0x04:
        return Kind.TCP_RST
    if flags & 0x12 == 0x02:
        return Kind.TCP_SYN
    return Kind.TCP_FIN if flags & 0x01 else Kind.WHOLE


def _quoted_flow(quoted: bytes, sender: IPv4Address) -> Flow:
    """Return the flow that the quoted packet answers, where the quote tells. Its length may be anything."""
    if len(quoted) < OUTER_LENGTH + 8 or quoted[0] & 0xF != 5:
        raise _Leave("DROP_MALFORMED")
    header, l4 = IP(quoted[:OUTER_LENGTH]), quoted[OUTER_LENGTH:]
    if IPv4Address(header.src) != sender or header.frag:
        raise _Leave("DROP_MALFORMED")
    source_port = destination_port = 0
    if header.proto in (_TCP, _UDP):
        destination_port, source_port = _unpack(l4, 4)
    elif header.proto == _ICMP:
        if l4[0] not in _ICMP_ECHOES:
            raise _Leave("DROP_MALFORMED")
        source_port = _identifier(l4)
    return Flow(IPv4Address(header.dst), sender, header.proto, source_port, destination_port)


def decrement_ttl(packet: bytes) -> bytes:
    """Return the packet with its TTL one lower and the checksum to match."""
    header = bytearray(packet[: (packet[0] & 0xF) * 4])
    header[8] -= 1
    header[10:12] = b"\0\0"
    header[10:12] = struct.pack("!H", checksum(bytes(header)))
    return bytes(header) + packet[len(header) :]


def _carry_ecn(mark: int, packet: bytes) -> bytes:
    """Return the packet with the mark of the header it came in, where that tells more (RFC 6040, 4.2)."""
    held = packet[1] & _ECN
    if not held or held == _CE or mark not in (_CE, _ECT_1):
        return packet
    header = bytearray(packet[: (packet[0] & 0xF) * 4])
    header[1] = header[1] & ~_ECN | mark
    return bytes(header) + packet[len(header) :]  # Whoever decrements its TTL computes the checksum.


def _is_host(address: str) -> bool:
    """Whether an address is a host's on some network, so that it may be sent an ICMP error."""
    network = IPv4Address(address).packed[0]
    return 0 < network < 224 and network != 127


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
