"""Frames that the tests send, and the frames that must come back, built with scapy."""

from __future__ import annotations

import logging
import random
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum, hexdump

from duet_p4.flow_hash import Flow

CLIENT = IPv4Address("100.9.9.9")
LOOPBACK = IPv4Address("172.30.0.7")
ETHERNET_LENGTH = 14
IPV4_LENGTH = 20

# Every address is given; scapy need not look for a route.
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

SENDER_MAC = "02:00:00:00:00:aa"
SWITCH_MAC = "02:00:00:00:00:bb"


def switch_mac(port: int) -> str:
    """Return the source address of what leaves by a port."""
    return f"02:00:00:00:01:{port:02x}"


def neighbor_mac(port: int) -> str:
    """Return the address of the one neighbour on a port."""
    return f"02:00:00:00:02:{port:02x}"


def frame(payload: Packet) -> bytes:
    """Return a frame as a sender on any port addresses it to the switch."""
    return raw(Ether(src=SENDER_MAC, dst=SWITCH_MAC) / payload)


def tcp(
    source: IPv4Address | str,
    destination: IPv4Address | str,
    source_port: int,
    destination_port: int,
    payload: bytes = b"payload of the client",
    **ip: object,
) -> Packet:
    """Return a TCP segment in IPv4; `ip` has fields of its IPv4 header."""
    return (
        IP(src=str(source), dst=str(destination), **ip)
        / TCP(sport=source_port, dport=destination_port, flags="S")
        / Raw(payload)
    )


def udp(
    source: IPv4Address | str,
    destination: IPv4Address | str,
    source_port: int,
    destination_port: int,
    payload: bytes = b"payload of the client",
    **ip: object,
) -> Packet:
    """Return a UDP datagram in IPv4."""
    return (
        IP(src=str(source), dst=str(destination), **ip)
        / UDP(sport=source_port, dport=destination_port)
        / Raw(payload)
    )


def echo(source: IPv4Address | str, destination: IPv4Address | str, identifier: int, **ip: object) -> Packet:
    """Return an ICMP echo request."""
    return IP(src=str(source), dst=str(destination), **ip) / ICMP(type=8, id=identifier, seq=1) / Raw(b"ping")


def decremented(packet: Packet | bytes) -> bytes:
    """Return an IPv4 packet as a router sends it on: one less of TTL, the checksum right."""
    data = bytearray(raw(packet))
    header = slice(0, (data[0] & 15) * 4)
    data[8] -= 1
    data[10:12] = b"\0\0"
    data[10:12] = checksum(bytes(data[header])).to_bytes(2, "big")
    return bytes(data)


def routed(packet: Packet, port: int) -> bytes:
    """Return the frame by which the switch sends an IPv4 packet on, unencapsulated."""
    return raw(Ether(src=switch_mac(port), dst=neighbor_mac(port), type=0x0800) / Raw(decremented(packet)))


def encapsulated(
    packet: Packet, encap: IPv4Address | str, port: int, padding: bytes = b"", tos: int | None = None
) -> bytes:
    """Return the frame by which the switch tunnels an IPv4 packet to `encap`: RFC 2003, byte for byte.

    The type of service is the packet's, where `tos` does not give another.
    """
    inner = IP(raw(packet)[:IPV4_LENGTH])
    outer = IP(
        src=str(LOOPBACK),
        dst=str(encap),
        tos=inner.tos if tos is None else tos,
        id=0,
        flags="DF",
        ttl=64,
        proto=4,
    )
    return (
        raw(Ether(src=switch_mac(port), dst=neighbor_mac(port)) / outer / Raw(decremented(packet))) + padding
    )


def tunneled(
    packet: Packet, outer_source: IPv4Address | str, outer_destination: IPv4Address | str, tos: int = 0
) -> Packet:
    """Return an IPv4 packet in a tunnel, as another mux makes it."""
    return IP(src=str(outer_source), dst=str(outer_destination), tos=tos, ttl=64, proto=4) / Raw(raw(packet))


def icmp_error(about: Packet, type_: int, code: int, mtu: int = 0) -> bytes:
    """Return the frame by which the switch tells the sender of `about` what became of it (RFC 792)."""
    original = raw(about)
    header = (original[0] & 15) * 4
    error = (
        IP(src=str(LOOPBACK), dst=IP(original).src, tos=0xC0, id=0, flags="DF", ttl=64)
        / ICMP(type=type_, code=code, unused=0, **({"nexthopmtu": mtu} if mtu else {}))
        / Raw(original[: header + 8])
    )
    return raw(Ether(src=SWITCH_MAC, dst=SENDER_MAC) / error)


def flow_of(packet: Packet) -> Flow:
    """Return the flow of a TCP, UDP or ICMP echo packet, as the hash is defined over it."""
    ip = IP(raw(packet))
    source_port = destination_port = 0
    if ip.proto in (6, 17) and not ip.flags.MF and not ip.frag:
        source_port, destination_port = ip.payload.sport, ip.payload.dport
    elif ip.proto == 1:
        source_port = ip.payload.id
    return Flow(IPv4Address(ip.src), IPv4Address(ip.dst), ip.proto, source_port, destination_port)


@dataclass(frozen=True)
class Tunneled:
    """What the headers of a tunneled UDP frame say, read from fixed offsets: thousands are looked at."""

    source: IPv4Address
    destination: IPv4Address
    flow: Flow

    @classmethod
    def parse(cls, data: bytes) -> Tunneled:
        """Return what a frame says; raise ValueError where it is no UDP in an IP-in-IP tunnel."""
        if data[23] != 4 or data[43] != 17:
            raise ValueError(f"no UDP in an IP-in-IP tunnel:\n{hexdump(data, dump=True)}")
        addresses = struct.unpack("!II", data[46:54])
        return cls(
            IPv4Address(data[26:30]),
            IPv4Address(data[30:34]),
            Flow(*map(IPv4Address, addresses), 17, *struct.unpack("!HH", data[54:58])),
        )


def udp_flows(
    count: int, destination: IPv4Address | str, destination_port: int = 53, seed: int = 1
) -> dict[Flow, bytes]:
    """Return that many flows to one address and a frame of each; the same ones for the same seed."""
    choose = random.Random(seed)
    target = IPv4Address(destination)
    ethernet = frame(IP(src=str(CLIENT), dst=str(target)))[:ETHERNET_LENGTH]
    flows: dict[Flow, bytes] = {}
    while len(flows) < count:
        source = IPv4Address(int(IPv4Address("100.0.0.0")) + choose.getrandbits(22))
        flow = Flow(source, target, 17, choose.randrange(1024, 65536), destination_port)
        start = struct.pack("!BBHHHBB", 0x45, 0, 36, 0, 0x4000, 64, 17)
        addresses = source.packed + target.packed
        total = sum(struct.unpack("!9H", start + addresses))
        header_checksum = ~(total % 0xFFFF) & 0xFFFF
        # A UDP checksum of 0 says that there is none.
        datagram = struct.pack("!HHHH", flow.source_port, destination_port, 16, 0) + b"8 bytes."
        flows[flow] = ethernet + start + struct.pack("!H", header_checksum) + addresses + datagram
    return flows


def difference(expected: bytes, received: bytes) -> str:
    """Return both frames as hex dumps, with the first byte that differs."""
    shorter = min(len(expected), len(received))
    at = next((i for i in range(shorter) if expected[i] != received[i]), shorter)
    return (
        f"first difference at byte {at} (lengths: expected {len(expected)}, received {len(received)})\n"
        f"expected:\n{hexdump(expected, dump=True)}\n{Ether(expected).summary()}\n"
        f"received:\n{hexdump(received, dump=True)}\n{Ether(received).summary()}"
    )
