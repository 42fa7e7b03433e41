"""Frames, built byte by byte: fast, the same on every machine, and as wrong as one wants them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any

from duet_p4.checksum import checksum as checksum_of

SENDER_MAC = bytes.fromhex("0200000000aa")
SWITCH_MAC = bytes.fromhex("0200000000bb")
SWITCH_MAC_TEXT = SWITCH_MAC.hex(":")

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_LLDP = 0x88CC

ICMP, IPIP, TCP, UDP, GRE, ESP, OSPF = 1, 4, 6, 17, 47, 50, 89
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000

Address = IPv4Address | str | int


def ethernet(
    payload: bytes,
    ether_type: int = ETHERTYPE_IPV4,
    destination: bytes = SWITCH_MAC,
    source: bytes = SENDER_MAC,
) -> bytes:
    """Return an Ethernet frame, without padding."""
    return destination + source + struct.pack("!H", ether_type) + payload


def vlan(payload: bytes, ether_type: int, vlan_id: int, priority: int = 0) -> bytes:
    """Return an 802.1Q tag and what it stands before."""
    return struct.pack("!HH", priority << 13 | vlan_id, ether_type) + payload


def ipv4(
    source: Address,
    destination: Address,
    protocol: int,
    payload: bytes,
    *,
    version: int = 4,
    ihl: int | None = None,
    tos: int = 0,
    total_len: int | None = None,
    identification: int = 0,
    flags_offset: int = DONT_FRAGMENT,
    ttl: int = 64,
    checksum: int | None = None,
    options: bytes = b"",
) -> bytes:
    """Return an IPv4 packet; what is not given is as it ought to be."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | (5 + len(options) // 4 if ihl is None else ihl),
        tos,
        (20 + len(options) + len(payload)) & 0xFFFF if total_len is None else total_len,
        identification,
        flags_offset,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    header += options
    right = checksum_of(header) if checksum is None else checksum
    return header[:10] + struct.pack("!H", right) + header[12:] + payload


def tcp(source_port: int, destination_port: int, payload: bytes = b"", flags: int = 0x10) -> bytes:
    """Return a TCP segment; nothing on the way looks at its checksum."""
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 2, 0x50, flags, 8192, 0, 0) + payload


def udp(source_port: int, destination_port: int, payload: bytes = b"") -> bytes:
    """Return a UDP datagram without a checksum."""
    return struct.pack("!HHHH", source_port, destination_port, (8 + len(payload)) & 0xFFFF, 0) + payload


def icmp(kind: int, code: int = 0, rest: int = 0, payload: bytes = b"") -> bytes:
    """Return an ICMP message; `rest` is the second word: identifier and sequence, or the next hop's MTU."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + payload
    return message[:2] + struct.pack("!H", checksum_of(message)) + message[4:]


def with_checksum(
    source: Address, destination: Address, payload: bytes, wanted: int, protocol: int = UDP, **fields: Any
) -> bytes:
    """Return a packet whose header has a certain, right checksum: the identification is chosen for it."""
    plain = ipv4(source, destination, protocol, payload, **fields)
    # One's complement: identification = (all words without it) - (complement of the checksum).
    rest = ~checksum_of(plain[:10] + b"\0\0" + plain[12:20]) & 0xFFFF
    identification = ((~wanted & 0xFFFF) - rest) % 0xFFFF
    return ipv4(
        source,
        destination,
        protocol,
        payload,
        identification=identification,
        checksum=wanted,
        **fields,
    )


def fill(length: int) -> bytes:
    """Return a payload that shows when it was moved, and that compresses well."""
    return bytes(range(256)) * (length // 256) + bytes(range(length % 256))


def repair(frame: bytes) -> bytes:
    """Make the checksum of a frame's first IPv4 header right, as far as it has one."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return frame
    length = max(frame[14] & 15, 5) * 4
    header = frame[14:24] + b"\0\0" + frame[26 : 14 + length]
    return frame[:24] + struct.pack("!H", checksum_of(header)) + frame[26:]
