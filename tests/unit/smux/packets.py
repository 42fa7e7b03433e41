"""Packet fixtures of the SMux: each says what comes in, how it leaves, and what goes out.

They run on every data path. Expected packets are built here from scratch by Scapy and the model, not by
the code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import Dip, Group, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol

MUX = IPv4Address("172.30.0.100")
MTU = 1500
ANNOUNCED = (IPv4Network("10.0.0.0/16"), IPv4Network("20.0.0.0/24"))
TOR_MAC, MUX_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
CLIENT = "192.0.2.7"
FRAGMENT_MUX = IPv4Address("172.30.255.254")


def group(*dips: str, host: str | None = None) -> Group:
    return Group.of(tuple(Dip(address=IPv4Address(dip), host=host) for dip in dips))


PLAIN = MuxVip(address="10.0.0.1", group=group("100.1.1.1", "100.1.1.2", "100.1.2.1"))
PORTS = MuxVip(
    address="10.0.0.2",
    ports=(
        MuxPortGroup(protocol=Protocol.TCP, port=80, group=group("100.0.0.1", "100.0.0.2")),
        MuxPortGroup(protocol=Protocol.UDP, port=80, group=group("110.0.0.1", "110.0.0.2")),
    ),
)
MIXED = MuxVip(
    address="10.0.0.3",
    group=group("100.1.1.3"),
    ports=(MuxPortGroup(protocol=Protocol.TCP, port=21, group=group("110.0.0.9")),),
)
KNOWN_TIP = MuxTip(address="20.0.0.1", group=group(*(f"100.2.1.{n}" for n in range(1, 9))))
LARGE = MuxVip(address="10.0.0.4", group=group("20.0.0.1"))
ELSEWHERE = MuxVip(address="10.0.0.5", group=group("20.0.0.2"))
VIRTUAL = MuxVip(address="10.0.0.6", group=group("100.3.1.1", host="100.3.1.250"))
# The slots are all one DIP's; the pinned flow is the other's.
PINNED = MuxVip(
    address="10.0.0.7",
    group=Group(members=(Dip(address="100.1.1.7"), Dip(address="100.1.1.8", weight=0)), slots=(0,)),
    pinned=(PinnedFlow(protocol=6, source=CLIENT, source_port=4321, destination_port=80, dip="100.1.1.8"),),
)
VIPS = (PLAIN, PORTS, MIXED, LARGE, ELSEWHERE, VIRTUAL, PINNED)


@dataclass(frozen=True)
class Fixture:
    """A frame, the exit it must take, and the frame that must come out (None: dropped, or unchanged)."""

    description: str
    exit: str
    frame: Callable[[], bytes]
    expected: Callable[[], bytes] | None = None


def wire(packet: Packet) -> bytes:
    """Return a frame from the ToR to the SMux."""
    return bytes(Ether(src=TOR_MAC, dst=MUX_MAC) / packet)


def client(vip: MuxVip, l4: Packet, **ip: object) -> Packet:
    return IP(src=CLIENT, dst=str(vip.address), **ip) / l4


def encapsulated(packet: Packet, to: IPv4Address | str) -> bytes:
    """Return what must come out for a client's packet: a new outer header, the inner TTL one less."""
    inner = IP(bytes(packet))
    outer = IP(
        src=str(MUX),
        dst=str(to),
        ttl=64,
        proto=4,
        tos=inner.tos,
        id=0,
        flags="DF",
    )
    inner.ttl -= 1
    del inner.chksum
    return bytes(Ether(src=MUX_MAC, dst=TOR_MAC) / outer / inner)


def answered(packet: Packet, icmp: ICMP) -> bytes:
    quoted = bytes(packet)[: packet.ihl * 4 + 8 if packet.ihl else 28]
    outer = IP(src=str(MUX), dst=CLIENT, ttl=64, id=0, tos=0xC0, flags="DF")
    return bytes(Ether(src=MUX_MAC, dst=TOR_MAC) / outer / icmp / Raw(quoted))


def flow(vip: MuxVip, protocol: int, source_port: int = 0, destination_port: int = 0) -> Flow:
    return Flow(IPv4Address(CLIENT), vip.address, protocol, source_port, destination_port)


def forwards(description: str, how: str, packet: Packet, to: IPv4Address | str) -> Fixture:
    return Fixture(description, how, lambda: wire(packet), lambda: encapsulated(packet, to))


def drops(description: str, how: str, frame: bytes) -> Fixture:
    return Fixture(description, how, lambda: frame)


def _corrupt(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def _member(vip: MuxVip, of: Flow) -> IPv4Address:
    assert vip.group
    return vip.group.member(flow_hash(of)).encap


SYN = client(PLAIN, TCP(sport=1000, dport=80, flags="S"))
UDP_DNS = client(PLAIN, UDP(sport=53000, dport=53) / Raw(b"question"))
PING = client(PLAIN, ICMP(type=8, id=0x1234, seq=7) / Raw(b"0123456789"))
BIG = client(PLAIN, UDP(sport=1, dport=2) / Raw(bytes(1500 - 28)), flags="DF")
LARGE_TCP = client(LARGE, TCP(sport=4000, dport=80, flags="S"))
TUNNELED = IP(src="172.30.0.1", dst="20.0.0.1", ttl=61) / LARGE_TCP


def quoting(reply: Packet, kind: int = 3, code: int = 4, vip: MuxVip = PLAIN, quoted: int = 28) -> Packet:
    """Return an ICMP error from a router on the DIP's way back to the client, about the DIP's reply."""
    quote = Raw(bytes(reply)[:quoted])
    return IP(src="172.31.0.9", dst=str(vip.address)) / ICMP(type=kind, code=code) / quote


def reply_of(vip: MuxVip, l4: Packet, **ip: object) -> Packet:
    return IP(src=str(vip.address), dst=CLIENT, **ip) / l4


def handed_over(packet: Packet) -> bytes:
    """Return a packet as an HMux tunnels it to the SMuxes that take fragments."""
    return wire(IP(src="172.30.0.1", dst=str(FRAGMENT_MUX)) / packet)


def large_syn(tos: int) -> Packet:
    return client(LARGE, TCP(sport=4001, dport=80, flags="S"), tos=tos)


def forwards_tunneled(description: str, inner: Packet, *, outer_tos: int, inner_tos: int) -> Fixture:
    """A packet of `large_syn` that an HMux tunneled to the TIP, and that was marked on the way."""
    to = KNOWN_TIP.group.member(tip_hash(flow(LARGE, 6, 4001, 80))).encap
    marked = inner.copy()
    marked.tos = inner_tos
    return Fixture(
        description,
        "FORWARD_HASH",
        lambda: wire(IP(src="172.30.0.1", dst="20.0.0.1", tos=outer_tos) / inner),
        lambda: encapsulated(marked, to),
    )


def about_tunneled(kind: int, code: int, mtu: int = 0, source: str = str(MUX)) -> Packet:
    """Return a router's ICMP error about a packet that the SMux had tunneled."""
    quoted = IP(src=source, dst="100.1.1.1", proto=4) / client(PLAIN, UDP(sport=9, dport=9))
    return (
        IP(src="172.31.0.9", dst=str(MUX)) / ICMP(type=kind, code=code, nexthopmtu=mtu) / Raw(bytes(quoted))
    )


FIXTURES = (
    forwards(
        "a SYN goes to the DIP of its hash", "FORWARD_HASH", SYN, _member(PLAIN, flow(PLAIN, 6, 1000, 80))
    ),
    forwards("UDP does as TCP", "FORWARD_HASH", UDP_DNS, _member(PLAIN, flow(PLAIN, 17, 53000, 53))),
    forwards(
        "an echo request is balanced by its identifier",
        "FORWARD_HASH",
        PING,
        _member(PLAIN, flow(PLAIN, 1, 0x1234)),
    ),
    forwards(
        "another protocol is balanced by its addresses",
        "FORWARD_HASH",
        client(PLAIN, Raw(b"anything"), proto=47),
        _member(PLAIN, flow(PLAIN, 47)),
    ),
    forwards(
        "TOS is copied to the outer header, which is whole by itself whatever the inner is",
        "FORWARD_HASH",
        client(PLAIN, UDP(sport=7, dport=9), tos=0xB8, id=0xBEEF, flags="DF", ttl=2),
        _member(PLAIN, flow(PLAIN, 17, 7, 9)),
    ),
    forwards(
        "IP options stay in the inner header and move the ports",
        "FORWARD_HASH",
        client(PLAIN, UDP(sport=8, dport=9), options=[IPOption_NOP()] * 4),
        _member(PLAIN, flow(PLAIN, 17, 8, 9)),
    ),
    forwards(
        "a first fragment goes with its flow",
        "FORWARD_HASH",
        client(PLAIN, UDP(sport=5353, dport=53) / Raw(bytes(64)), flags="MF", id=7),
        _member(PLAIN, flow(PLAIN, 17, 5353, 53)),
    ),
    Fixture(
        "a first fragment that an HMux hands over goes with its flow, too",
        "FORWARD_HASH",
        lambda: handed_over(client(PLAIN, UDP(sport=5354, dport=53) / Raw(bytes(64)), flags="MF", id=17)),
        lambda: encapsulated(
            client(PLAIN, UDP(sport=5354, dport=53) / Raw(bytes(64)), flags="MF", id=17),
            _member(PLAIN, flow(PLAIN, 17, 5354, 53)),
        ),
    ),
    drops(
        "a later fragment without its first is dropped, also where an HMux hands it over",
        "DROP_FRAGMENT",
        handed_over(client(PLAIN, Raw(bytes(64)), proto=17, frag=9, id=18)),
    ),
    drops(
        "what an HMux hands over for a TIP is dropped",
        "DROP_BARE_TIP",
        handed_over(IP(src=CLIENT, dst="20.0.0.1") / UDP()),
    ),
    drops(
        "what an HMux hands over for a VIP that is not known is dropped",
        "DROP_UNKNOWN_VIP",
        handed_over(IP(src=CLIENT, dst="10.0.99.99") / UDP()),
    ),
    drops(
        "a later fragment without its first is dropped",
        "DROP_FRAGMENT",
        wire(client(PLAIN, Raw(bytes(64)), proto=17, frag=9, id=8)),
    ),
    drops(
        "a first fragment too short for its ports is dropped",
        "DROP_MALFORMED",
        wire(client(PLAIN, Raw(bytes(4)), proto=17, flags="MF", id=9)),
    ),
    forwards(
        "TCP of a connection that is not known goes by hash",
        "FORWARD_MIDSTREAM",
        client(PLAIN, TCP(sport=2000, dport=80, flags="A")),
        _member(PLAIN, flow(PLAIN, 6, 2000, 80)),
    ),
    forwards(
        "HTTP over TCP goes to the DIPs of tcp/80",
        "FORWARD_HASH",
        client(PORTS, TCP(sport=5, dport=80)),
        PORTS.ports[0].group.member(flow_hash(flow(PORTS, 6, 5, 80))).encap,
    ),
    forwards(
        "the same port over UDP goes to the DIPs of udp/80",
        "FORWARD_HASH",
        client(PORTS, UDP(sport=5, dport=80)),
        PORTS.ports[1].group.member(flow_hash(flow(PORTS, 17, 5, 80))).encap,
    ),
    drops(
        "a port without DIPs is dropped",
        "DROP_NO_GROUP",
        wire(client(PORTS, TCP(sport=5, dport=81))),
    ),
    forwards(
        "a port of its own beats the default", "FORWARD_HASH", client(MIXED, TCP(dport=21)), "110.0.0.9"
    ),
    forwards("other ports go to the default", "FORWARD_HASH", client(MIXED, TCP(dport=22)), "100.1.1.3"),
    forwards(
        "a TIP that is known here is resolved at once, by the second hash",
        "FORWARD_HASH",
        LARGE_TCP,
        KNOWN_TIP.group.member(tip_hash(flow(LARGE, 6, 4000, 80))).encap,
    ),
    Fixture(
        "a packet tunneled to a TIP is tunneled on to the same DIP",
        "FORWARD_HASH",
        lambda: wire(TUNNELED),
        lambda: encapsulated(LARGE_TCP, KNOWN_TIP.group.member(tip_hash(flow(LARGE, 6, 4000, 80))).encap),
    ),
    forwards(
        "a TIP that is unknown here is left to the mux that has it",
        "FORWARD_HASH",
        client(ELSEWHERE, TCP()),
        "20.0.0.2",
    ),
    forwards(
        "a DIP in a virtualized cluster is reached through its host",
        "FORWARD_HASH",
        client(VIRTUAL, TCP()),
        "100.3.1.250",
    ),
    forwards(
        "a pinned flow goes to its DIP, SYN or not",
        "FORWARD_PINNED",
        client(PINNED, TCP(sport=4321, dport=80, flags="S")),
        "100.1.1.8",
    ),
    forwards(
        "other flows of that VIP go by hash",
        "FORWARD_HASH",
        client(PINNED, TCP(sport=4322, dport=80)),
        "100.1.1.7",
    ),
    forwards(
        "fragmentation needed reaches the DIP whose reply it quotes",
        "FORWARD_ICMP_ERROR",
        quoting(reply_of(PLAIN, TCP(sport=80, dport=1000))),
        _member(PLAIN, flow(PLAIN, 6, 1000, 80)),
    ),
    forwards(
        "so does time exceeded about UDP",
        "FORWARD_ICMP_ERROR",
        quoting(reply_of(PLAIN, UDP(sport=53, dport=53000)), 11, 0),
        _member(PLAIN, flow(PLAIN, 17, 53000, 53)),
    ),
    forwards(
        "so does an error about an echo reply",
        "FORWARD_ICMP_ERROR",
        quoting(reply_of(PLAIN, ICMP(type=0, id=0x1234)), 3, 1),
        _member(PLAIN, flow(PLAIN, 1, 0x1234)),
    ),
    forwards(
        "so does an error about a port of its own",
        "FORWARD_ICMP_ERROR",
        quoting(reply_of(PORTS, TCP(sport=80, dport=5)), vip=PORTS),
        PORTS.ports[0].group.member(flow_hash(flow(PORTS, 6, 5, 80))).encap,
    ),
    forwards(
        "so does an error about the first fragment of a reply",
        "FORWARD_ICMP_ERROR",
        quoting(IP(src="10.0.0.1", dst=CLIENT, flags="MF") / UDP(sport=53, dport=53000)),
        _member(PLAIN, flow(PLAIN, 17, 53000, 53)),
    ),
    drops(
        "an ICMP error about someone else's packet is dropped",
        "DROP_MALFORMED",
        wire(IP(src="172.31.0.9", dst="10.0.0.1") / ICMP(type=3) / Raw(bytes(reply_of(PORTS, TCP()))[:28])),
    ),
    *(
        drops(
            f"an ICMP error that quotes {what} is dropped: it does not tell its flow", "DROP_MALFORMED", frame
        )
        for what, frame in (
            ("a later fragment", wire(quoting(reply_of(PLAIN, Raw(bytes(8)), frag=9, proto=17)))),
            ("IPv4 options", wire(quoting(reply_of(PLAIN, UDP(), options=[IPOption_NOP()] * 4), quoted=32))),
            ("an ICMP message without identifier", wire(quoting(reply_of(PLAIN, ICMP(type=14, id=7))))),
        )
    ),
    drops(
        "an ICMP error without room for the quoted ports is dropped",
        "DROP_MALFORMED",
        wire(IP(src="172.31.0.9", dst="10.0.0.1") / ICMP(type=3) / Raw(bytes(reply_of(PLAIN, TCP()))[:22])),
    ),
    Fixture(
        "too big once encapsulated: the client is told the size that fits",
        "REPLY_TOO_BIG",
        lambda: wire(BIG),
        lambda: answered(BIG, ICMP(type=3, code=4, nexthopmtu=MTU - 20)),
    ),
    Fixture(
        "too big and tunneled to a TIP: the client is told, not the HMux",
        "REPLY_TOO_BIG",
        lambda: wire(IP(src="172.30.0.1", dst="20.0.0.1") / BIG),
        lambda: answered(BIG, ICMP(type=3, code=4, nexthopmtu=MTU - 20)),
    ),
    drops(
        "too big without DF is dropped",
        "DROP_TOO_BIG",
        wire(client(PLAIN, UDP() / Raw(bytes(1472)))),
    ),
    forwards(
        "the largest packet that fits is encapsulated",
        "FORWARD_HASH",
        client(PLAIN, UDP(sport=1, dport=2) / Raw(bytes(1480 - 28)), flags="DF"),
        _member(PLAIN, flow(PLAIN, 17, 1, 2)),
    ),
    Fixture(
        "TTL at its end: the client is told",
        "REPLY_TTL",
        lambda: wire(client(PLAIN, UDP(), ttl=1)),
        lambda: answered(client(PLAIN, UDP(), ttl=1), ICMP(type=11, code=0)),
    ),
    drops(
        "from a loopback address",
        "DROP_MARTIAN",
        wire(IP(src="127.0.0.1", dst="10.0.0.1") / UDP()),
    ),
    drops(
        "from nobody's address, and its TTL at its end",
        "DROP_MARTIAN",
        wire(IP(src="0.1.2.3", dst="10.0.0.1", ttl=1) / UDP()),
    ),
    drops(
        "TTL at its end on an ICMP error is never answered",
        "DROP_TTL_EXPIRED",
        wire(
            IP(src="172.31.0.9", dst="10.0.0.1", ttl=1)
            / ICMP(type=3)
            / Raw(bytes(reply_of(PLAIN, TCP()))[:28])
        ),
    ),
    drops("a wrong header checksum is dropped", "DROP_MALFORMED", _corrupt(wire(SYN), 24, 0x55)),
    drops(
        "a total length beyond the frame is dropped", "DROP_MALFORMED", wire(client(PLAIN, UDP(), len=200))
    ),
    drops(
        "a TCP header cut short is dropped",
        "DROP_MALFORMED",
        wire(client(PLAIN, Raw(bytes(19)), proto=6)),
    ),
    drops("version 6 in an IPv4 frame is dropped", "DROP_MALFORMED", wire(client(PLAIN, TCP(), version=6))),
    drops("a header length below 20 is dropped", "DROP_MALFORMED", wire(client(PLAIN, TCP(), ihl=4))),
    drops(
        "a plain packet to a TIP is dropped",
        "DROP_BARE_TIP",
        wire(IP(src=CLIENT, dst="20.0.0.1") / TCP()),
    ),
    drops(
        "a tunnel to a TIP of somebody who is no mux is dropped",
        "DROP_NOT_A_MUX",
        wire(IP(src="100.1.1.2", dst="20.0.0.1") / SYN),
    ),
    drops(
        "a fragment that somebody hands over who is no mux is dropped",
        "DROP_NOT_A_MUX",
        wire(
            IP(src=CLIENT, dst=str(FRAGMENT_MUX)) / client(PLAIN, Raw(bytes(64)), proto=17, flags="MF", id=9)
        ),
    ),
    drops(
        "a packet to a VIP that is tunneled already is dropped",
        "DROP_TUNNELED_VIP",
        wire(IP(src="172.30.0.1", dst="10.0.0.1") / SYN),
    ),
    drops(
        "an echo storm between two VIPs is ended",
        "DROP_VIP_TO_VIP",
        wire(IP(src=str(PORTS.address), dst=str(PLAIN.address)) / UDP(sport=7, dport=7)),
    ),
    forwards(
        "a DIP that does SNAT may ask another VIP",
        "FORWARD_HASH",
        IP(src=str(PORTS.address), dst=str(PLAIN.address)) / UDP(sport=40000, dport=53),
        PLAIN.group.member(flow_hash(Flow(PORTS.address, PLAIN.address, 17, 40000, 53))).encap,
    ),
    forwards_tunneled(
        "a mark of congestion on the way to a TIP reaches the receiver",
        large_syn(tos=2),
        outer_tos=3,
        inner_tos=3,
    ),
    forwards_tunneled(
        "ECT(1) on the outer header is carried over ECT(0)", large_syn(tos=2), outer_tos=1, inner_tos=1
    ),
    forwards_tunneled(
        "ECT(0) on the outer header says nothing new", large_syn(tos=1), outer_tos=2, inner_tos=1
    ),
    forwards_tunneled("a mark once set stays", large_syn(tos=3), outer_tos=0, inner_tos=3),
    drops(
        "congestion that its sender would not understand is a loss",
        "DROP_ECN",
        wire(IP(src="172.30.0.1", dst="20.0.0.1", tos=3) / large_syn(tos=0)),
    ),
    Fixture(
        "fragmentation needed about a tunneled packet is told to its client, less the tunnel's header",
        "REPLY_TUNNEL",
        lambda: wire(about_tunneled(3, 4, mtu=1400)),
        lambda: answered(client(PLAIN, UDP(sport=9, dport=9)), ICMP(type=3, code=4, nexthopmtu=1380)),
    ),
    Fixture(
        "a tunnel that ends nowhere is an unreachable host",
        "REPLY_TUNNEL",
        lambda: wire(about_tunneled(11, 0)),
        lambda: answered(client(PLAIN, UDP(sport=9, dport=9)), ICMP(type=3, code=1)),
    ),
    drops(
        "an error about a packet that was never tunneled here is the kernel's",
        "PASS_LOCAL",
        wire(about_tunneled(3, 4, mtu=1400, source="172.30.0.1")),
    ),
    drops(
        "a frame to another's MAC address is the kernel's",
        "PASS_FOREIGN",
        bytes(Ether(src=TOR_MAC, dst="02:00:00:00:00:99") / SYN),
    ),
    drops(
        "an address of the announced prefix without a VIP is dropped, not looped",
        "DROP_UNKNOWN_VIP",
        wire(IP(src=CLIENT, dst="10.0.99.1") / TCP()),
    ),
    drops("BGP to the SMux itself is the kernel's", "PASS_LOCAL", wire(IP(dst=str(MUX)) / TCP(dport=179))),
    drops("ARP is the kernel's", "PASS_NOT_IPV4", bytes(Ether(src=TOR_MAC, dst=MUX_MAC) / ARP())),
    drops(
        "a multicast frame is the kernel's",
        "PASS_LOCAL",
        bytes(Ether(src=TOR_MAC, dst="01:00:5e:00:00:01") / SYN),
    ),
)
