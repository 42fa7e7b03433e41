"""The headers of a frame, as traces show them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from duet_p4.api.trace import TraceFlow, Value

_IP_IN_IP, _ICMP, _TCP, _UDP = 4, 1, 6, 17
_ETHERNET = (("dst_addr", 48), ("src_addr", 48), ("ether_type", 16))
_IPV4 = (
    *(("version", 4), ("ihl", 4), ("diffserv", 6), ("ecn", 2), ("total_len", 16), ("identification", 16)),
    *(("flags", 3), ("frag_offset", 13), ("ttl", 8), ("protocol", 8), ("hdr_checksum", 16)),
    *(("src_addr", 32), ("dst_addr", 32)),
)
_L4 = {
    _TCP: (
        "tcp",
        (
            *(("src_port", 16), ("dst_port", 16), ("seq_no", 32), ("ack_no", 32), ("data_offset", 4)),
            *(("res", 4), ("flags", 8), ("window", 16), ("checksum", 16), ("urgent_ptr", 16)),
        ),
    ),
    _UDP: ("udp", (("src_port", 16), ("dst_port", 16), ("length", 16), ("checksum", 16))),
    _ICMP: ("icmp", (("type", 8), ("code", 8), ("checksum", 16), ("rest", 32))),
}


def headers_of(frame: bytes) -> tuple[Value, ...]:
    """Return the fields of the headers that a frame begins with: Ethernet, IPv4 (and in a tunnel), L4."""
    return tuple(_headers(frame))


def _headers(frame: bytes) -> Iterator[Value]:
    if len(frame) < 14:
        return
    yield from _fields("ethernet", _ETHERNET, frame)
    if frame[12:14] != b"\x08\x00":
        return
    at, name = 14, "outer_ipv4" if len(frame) > 23 and frame[23] == _IP_IN_IP else "ipv4"
    while len(frame) >= at + 20:
        yield from _fields(name, _IPV4, frame[at:])
        length, protocol = (frame[at] & 15) * 4, frame[at + 9]
        later = int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF
        at += length
        if protocol == _IP_IN_IP and name == "outer_ipv4":
            name = "ipv4"
            continue
        if protocol in _L4 and not later:
            title, fields = _L4[protocol]
            if len(frame) >= at + sum(width for _, width in fields) // 8:
                yield from _fields(title, fields, frame[at:])
        return


def _fields(header: str, fields: tuple[tuple[str, int], ...], data: bytes) -> Iterator[Value]:
    size = sum(width for _, width in fields)
    whole, left = int.from_bytes(data[: size // 8], "big"), size
    for field, width in fields:
        left -= width
        value = whole >> left & (1 << width) - 1
        yield Value(name=f"{header}.{field}", value=f"0x{value:0{(width + 3) // 4}x}", width=width)


def belongs(frame: bytes, flow: TraceFlow) -> bool:
    """Return whether a frame is of a flow, there or back, bare or in one tunnel.

    `bpf/include/trace_flow.h` decides the same.
    """
    if frame[12:14] != b"\x08\x00":
        return False
    at = 14
    for _ in range(2):
        if len(frame) < at + 20:
            return False
        header = frame[at : at + 20]
        at += (header[0] & 15) * 4
        if header[9] != _IP_IN_IP:
            break
    protocol, later = header[9], int.from_bytes(header[6:8], "big") & 0x1FFF
    ends = IPv4Address(header[12:16]), IPv4Address(header[16:20])
    ports = (0, 0)
    if not later and len(frame) >= at + 8:
        first, second, third = struct.unpack_from("!3H", frame, at)
        ports = (third, third) if protocol == _ICMP else (first, second)
    if flow.protocol not in (None, protocol):
        return False
    wanted = (flow.source, flow.destination, flow.source_port, flow.destination_port)
    return any(
        all(want in (None, got) for want, got in zip(wanted, found, strict=True))
        for found in ((*ends, *ports), (*reversed(ends), *reversed(ports)))
    )
