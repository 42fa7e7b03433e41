"""Traffic for hmux.p4: every kind of packet that a network may bring, and cases along the edges."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

from duet_p4.hmux import pipeline
from ptf_tests.conformance import headers as h
from ptf_tests.conformance.hmux_states import (
    CLIENTS,
    LOOPBACK,
    ODD,
    OWN,
    PINNED,
    PLACES,
    PORTS,
    SERVERS,
    TIPS,
    VIPS,
)
from ptf_tests.conformance.mutations import mutate
from ptf_tests.conformance.program import MIN_FRAME, Case, State


def systematic(state: State) -> Iterator[Case]:
    """Yield cases along the edges: each length, each header field's limits, each TTL."""
    if state.name == "full":
        yield from _edges()
        yield from _errors()
        yield from _tunnels()
        yield from _sources()
    if state.name in ("full", "other seed"):
        yield from _flows()
    if state.name == "no ICMP errors":
        yield from _expired()
    if state.name in ("full", "small MTU"):
        yield from _sizes()


def cases(state: State, rng: random.Random) -> Iterator[Case]:
    """Yield traffic without end: 60% well-formed, the rest mutated."""
    kinds = list(_KINDS.items())
    while True:
        name, build = rng.choice(kinds)
        port = pipeline.CPU_PORT if build is _packet_out else rng.choice(PORTS)
        frame = build(rng)
        if rng.random() < 0.4:
            how, frame = mutate(rng, frame)
            name = f"{name}: {how}"
        # A packet-out's header is not sent on, and what is sent on must be a frame.
        least = MIN_FRAME + 2 if port == pipeline.CPU_PORT else MIN_FRAME
        yield Case(name, port, frame.ljust(least, b"\0"))


# Well-formed traffic. Every function takes the generator of random numbers and returns a frame.


def _fields(rng: random.Random) -> dict[str, Any]:
    """Return fields of an IPv4 header that may vary without harm."""
    return {
        "ttl": rng.choice((64, 64, 64, 255, 128, 3, 2, 1, 0)),
        "tos": rng.choice((0, 0, 0x02, 0xB8, 0xFF)),
        "identification": rng.randrange(0x10000),
        "flags_offset": rng.choice((h.DONT_FRAGMENT, h.DONT_FRAGMENT, 0, 0x8000)),
    }


def _source(rng: random.Random) -> IPv4Address:
    return rng.choice(ODD) if rng.random() < 0.03 else rng.choice(CLIENTS)


def _l4(rng: random.Random, protocol: int) -> bytes:
    ports = rng.choice((80, 21, 53, 443, 0, 65535)), rng.choice((80, 80, 21, 53, 443, 0, 65535))
    source = rng.randrange(1024, 65536) if rng.random() < 0.8 else ports[0]
    payload = h.fill(rng.choice((0, 0, 1, 2, 5, 18, 40, 100)) if rng.random() < 0.9 else rng.randrange(1500))
    if protocol == h.TCP:
        return h.tcp(source, ports[1], payload, rng.choice((0x02, 0x10, 0x12, 0x11)))
    if protocol == h.UDP:
        return h.udp(source, ports[1], payload)
    if protocol == h.ICMP:
        return h.icmp(rng.choice((8, 8, 8, 0, 0, 5, 13, 17)), 0, rng.randrange(1 << 32), payload)
    return payload


def _packet(rng: random.Random, destination: IPv4Address, **fields: Any) -> bytes:
    protocol = rng.choice((h.TCP, h.TCP, h.UDP, h.UDP, h.ICMP, h.GRE))
    return h.ipv4(_source(rng), destination, protocol, _l4(rng, protocol), **_fields(rng) | fields)


def _to(places: list[IPv4Address]) -> Callable[[random.Random], bytes]:
    return lambda rng: h.ethernet(_packet(rng, rng.choice(places)))


def _tunnel(rng: random.Random, inner: bytes, destination: IPv4Address) -> bytes:
    source = rng.choice((LOOPBACK, IPv4Address("172.30.0.9")))
    return h.ipv4(source, destination, h.IPIP, inner, **_fields(rng))


def _tunneled_to_tip(rng: random.Random) -> bytes:
    return h.ethernet(_tunnel(rng, _packet(rng, rng.choice(VIPS)), rng.choice(TIPS)))


def _tunneled_to_vip(rng: random.Random) -> bytes:
    return h.ethernet(_tunnel(rng, _packet(rng, rng.choice(VIPS)), rng.choice(VIPS)))


def _tunneled_in_transit(rng: random.Random) -> bytes:
    return h.ethernet(_tunnel(rng, _packet(rng, rng.choice(VIPS)), rng.choice([*SERVERS, *PLACES])))


def _tunnel_in_tunnel(rng: random.Random) -> bytes:
    inner = _tunnel(rng, _packet(rng, rng.choice(VIPS)), rng.choice(VIPS))
    return h.ethernet(_tunnel(rng, inner, rng.choice([*TIPS, *SERVERS])))


def _tunneled_oddly(rng: random.Random) -> bytes:
    """Something in a tunnel that is not a plain packet: options, a fragment, an ICMP error."""
    build = rng.choice((_with_options, _fragment, _icmp_error))
    return h.ethernet(_tunnel(rng, build(rng)[14:], rng.choice([*TIPS, *SERVERS])))


def _tunnel_with_options(rng: random.Random) -> bytes:
    inner = _packet(rng, rng.choice(VIPS))
    options = bytes(4 * rng.randint(1, 10))
    return h.ethernet(h.ipv4(LOOPBACK, rng.choice([*TIPS, *SERVERS]), h.IPIP, inner, options=options))


def _with_options(rng: random.Random) -> bytes:
    protocol = rng.choice((h.TCP, h.UDP, h.ICMP))
    options = rng.choice((bytes(40), rng.randbytes(40), b"\x94\x04\0\0" * 10, b"\xff" * 40))[
        : 4 * rng.randint(1, 10)
    ]
    destination = rng.choice([*VIPS, *SERVERS, *PLACES])
    fields = _fields(rng)
    return h.ethernet(
        h.ipv4(_source(rng), destination, protocol, _l4(rng, protocol), options=options, **fields)
    )


def _fragment(rng: random.Random) -> bytes:
    protocol = rng.choice((h.TCP, h.UDP, h.ICMP, h.IPIP))
    where = rng.choice((h.MORE_FRAGMENTS, h.MORE_FRAGMENTS | 1, 185, 1, 0x1FFF, 0xA000))
    payload = h.fill(rng.choice((0, 4, 7, 8, 24, 64)))
    destination = rng.choice([*VIPS, *SERVERS, *TIPS])
    fields = _fields(rng) | {"flags_offset": where}
    return h.ethernet(h.ipv4(_source(rng), destination, protocol, payload, **fields))


def _icmp_error(rng: random.Random) -> bytes:
    """An ICMP error about a packet of a VIP's, which quotes as much of it as it likes."""
    kind = rng.choice((3, 3, 4, 11, 12))
    vip = rng.choice(VIPS)
    protocol = rng.choice((h.TCP, h.UDP, h.ICMP, h.GRE))
    fields: dict[str, Any] = {"ttl": 1}
    if rng.random() < 0.15:
        fields["flags_offset"] = rng.choice((h.MORE_FRAGMENTS, 100))
    options = bytes(8) if rng.random() < 0.1 else b""
    quoted = h.ipv4(vip, rng.choice(CLIENTS), protocol, _l4(rng, protocol), options=options, **fields)
    kept = rng.choice((28, 28, 28, 36, 64, 548, 27, 24, 20, 19, 8, 0))
    error = h.icmp(kind, rng.randrange(5), rng.choice((0, 1400)), quoted[:kept])
    source, outer = IPv4Address("198.51.100.200"), _fields(rng)
    return h.ethernet(h.ipv4(source, rng.choice((vip, vip, SERVERS[0])), h.ICMP, error, **outer))


def _pinned(rng: random.Random) -> bytes:
    source, destination, protocol, source_port, destination_port = rng.choice(PINNED)
    payload = {
        h.TCP: h.tcp(source_port, destination_port),
        h.UDP: h.udp(source_port, destination_port),
        h.ICMP: h.icmp(8, 0, source_port << 16 | 1),
    }.get(protocol, h.fill(16))
    return h.ethernet(h.ipv4(source, destination, protocol, payload, **_fields(rng)))


def _other_protocol(rng: random.Random) -> bytes:
    protocol = rng.choice((h.GRE, h.ESP, h.OSPF, 0, 2, 41, 58, 132, 255))
    payload = h.fill(rng.choice((0, 7, 8, 20, 60)))
    destination = rng.choice([*VIPS, *SERVERS, *OWN])
    return h.ethernet(h.ipv4(_source(rng), destination, protocol, payload, **_fields(rng)))


def _large(rng: random.Random) -> bytes:
    """Around the MTUs, with and without room for a tunnel's header."""
    mtu = rng.choice((68, 88, 120, 128, 576, 1280, 1500))
    length = max(28, mtu - 20 * rng.randrange(2) + rng.randint(-1, 1))
    flags = rng.choice((h.DONT_FRAGMENT, 0))
    destination = rng.choice([*VIPS, *PLACES, SERVERS[0]])
    packet = h.ipv4(
        _source(rng), destination, h.UDP, h.udp(9, 9, h.fill(length - 28)), flags_offset=flags,
        ttl=rng.choice((64, 1)),
    )  # fmt: skip
    return h.ethernet(packet if rng.random() < 0.7 else _tunnel(rng, packet, rng.choice([*TIPS, *PLACES])))


def _bad_checksum(rng: random.Random) -> bytes:
    checksum = rng.choice((0, 0xFFFF, rng.randrange(0x10000)))
    return h.ethernet(_packet(rng, rng.choice([*VIPS, *SERVERS]), checksum=checksum))


def _edge_checksum(rng: random.Random) -> bytes:
    wanted = rng.choice((0xFEFE, 0xFEFF, 0xFF00, 0xFFFE, 0x0000, 0x0001, 0x00FF, 0x0100))
    fields = {"ttl": rng.choice((64, 2)), "flags_offset": rng.choice((0, h.DONT_FRAGMENT))}
    destination = rng.choice([VIPS[3], SERVERS[0]])
    return h.ethernet(h.with_checksum(rng.choice(CLIENTS), destination, h.udp(5, 5), wanted, **fields))


def _wrong_length(rng: random.Random) -> bytes:
    destination = rng.choice([*VIPS, *SERVERS])
    packet = _packet(rng, destination, total_len=rng.choice((0, 19, 20, 21, 27, 28, 40, 100, 1500, 0xFFFF)))
    if rng.random() < 0.3:
        packet = _tunnel(rng, packet, rng.choice([*TIPS, *SERVERS]))
    return h.ethernet(packet)


def _wrong_header(rng: random.Random) -> bytes:
    destination = rng.choice([*VIPS, *SERVERS])
    packet = _packet(rng, destination, version=rng.choice((4, 4, 0, 5, 6, 15)), ihl=rng.randrange(16))
    if rng.random() < 0.3:
        packet = _tunnel(rng, packet, rng.choice(TIPS))
    return h.repair(h.ethernet(packet))


def _for_others(rng: random.Random) -> bytes:
    groups = ("ffffffffffff", "01005e000005", "333300000001", "0200000000cc", "0200000001bb")
    destination = bytes.fromhex(rng.choice(groups))
    return h.ethernet(_packet(rng, rng.choice([*SERVERS, *OWN, *VIPS])), destination=destination)


def _not_ipv4(rng: random.Random) -> bytes:
    kinds: Mapping[int, bytes] = {
        h.ETHERTYPE_ARP: bytes.fromhex("0001080006040001") + h.fill(20),
        h.ETHERTYPE_IPV6: b"\x60" + h.fill(60),
        h.ETHERTYPE_LLDP: h.fill(40),
        h.ETHERTYPE_VLAN: h.vlan(_packet(rng, VIPS[0]), h.ETHERTYPE_IPV4, 7),
        0x8847: h.fill(30),
        0x0026: h.fill(38),
        rng.randrange(0x10000): h.fill(rng.randrange(64)),
    }
    ether_type = rng.choice(list(kinds))
    return h.ethernet(kinds[ether_type], ether_type)


def _random_bytes(rng: random.Random) -> bytes:
    frame = rng.randbytes(rng.randint(MIN_FRAME, 80))
    return frame[:12] + b"\x08\x00" + frame[14:] if rng.random() < 0.7 else frame


def _packet_out(rng: random.Random) -> bytes:
    port = rng.choice((*PORTS, 0, 300, 510, 511))
    inner = rng.choice((_to(VIPS), _not_ipv4, _random_bytes))(rng)
    return (port << 7 | rng.choice((0, 0, 127))).to_bytes(2, "big") + inner


_KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "to a VIP": _to(VIPS),
    "to a VIP again": _to(VIPS[:8]),
    "to a server": _to(SERVERS),
    "to a peculiar next hop": _to(PLACES),
    "to the switch": _to(OWN),
    "to a bare TIP": _to(TIPS),
    "to an odd address": _to(ODD),
    "tunnel to a TIP": _tunneled_to_tip,
    "tunnel to a VIP": _tunneled_to_vip,
    "tunnel in transit": _tunneled_in_transit,
    "tunnel in a tunnel": _tunnel_in_tunnel,
    "tunnel with options": _tunnel_with_options,
    "odd packet in a tunnel": _tunneled_oddly,
    "options": _with_options,
    "fragment": _fragment,
    "ICMP error": _icmp_error,
    "pinned flow": _pinned,
    "other protocol": _other_protocol,
    "around an MTU": _large,
    "bad checksum": _bad_checksum,
    "edge of the checksum": _edge_checksum,
    "wrong length": _wrong_length,
    "wrong version or IHL": _wrong_header,
    "for others": _for_others,
    "not IPv4": _not_ipv4,
    "random bytes": _random_bytes,
    "packet-out": _packet_out,
}


def _edges() -> Iterator[Case]:
    client, vip, server = CLIENTS[0], VIPS[3], SERVERS[0]
    inner = h.ipv4(client, vip, h.UDP, h.udp(1000, 80, h.fill(6)), options=bytes(8))
    icmp = h.icmp(3, 1, 0, h.ipv4(vip, client, h.TCP, h.tcp(80, 1000)))
    shapes = {
        "UDP": h.ipv4(client, vip, h.UDP, h.udp(1000, 80, h.fill(6))),
        "tunnel to a TIP": h.ipv4(LOOPBACK, TIPS[0], h.IPIP, inner),
        "ICMP error": h.ipv4(client, vip, h.ICMP, icmp),
        "tunneled ICMP error": h.ipv4(LOOPBACK, TIPS[0], h.IPIP, h.ipv4(client, vip, h.ICMP, icmp)),
    }
    for name, packet in shapes.items():
        frame = h.ethernet(packet)
        for length in range(MIN_FRAME, len(frame)):
            yield Case(f"{name} cut to {length} bytes", 1, frame[:length])
    for total_len in range(64):
        yield Case(f"total length {total_len}", 2, h.ethernet(_counted(client, vip, total_len)))
        tunnel = h.ipv4(LOOPBACK, TIPS[1], h.IPIP, _counted(client, vip, total_len), total_len=56)
        yield Case(f"tunneled total length {total_len}", 2, h.ethernet(tunnel))
    for ihl in range(16):
        frame = h.ethernet(h.ipv4(client, vip, h.TCP, h.tcp(1000, 80, h.fill(60)), ihl=ihl))
        yield Case(f"IHL {ihl}", 3, h.repair(frame))
    for ttl in range(4):
        for name, packet in _with_ttl(ttl):
            yield Case(f"{name}, TTL {ttl}", 3, h.ethernet(packet))
    for wanted in (0, 1, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE):
        for destination in (vip, server):
            frame = h.ethernet(h.with_checksum(client, destination, h.udp(5, 5), wanted))
            yield Case(f"checksum {wanted:#06x}", 4, frame)


def _errors() -> Iterator[Case]:
    """ICMP errors about many flows of a VIP: each must reach the DIP of its flow."""
    for number, client in enumerate(CLIENTS):
        for protocol, build in ((h.TCP, h.tcp), (h.UDP, h.udp)):
            quoted = h.ipv4(VIPS[3], client, protocol, build(80 + number % 3, 40000 + number)[:8])
            error = h.icmp(3, 4, 1400, quoted)
            yield Case(f"error about {client}", 1, h.ethernet(h.ipv4(SERVERS[1], VIPS[3], h.ICMP, error)))
        echo = h.ipv4(VIPS[3], client, h.ICMP, h.icmp(0, 0, number << 16 | 1))
        error = h.icmp(11, 0, 0, echo)
        yield Case(
            f"error about a ping of {client}", 1, h.ethernet(h.ipv4(SERVERS[1], VIPS[3], h.ICMP, error))
        )
    # Expired and too big at once, in a tunnel and not.
    for flags in (0, h.DONT_FRAGMENT):
        for ttl in (0, 1, 2):
            packet = h.ipv4(
                CLIENTS[3], PLACES[8], h.UDP, h.udp(1, 2, h.fill(200)), ttl=ttl, flags_offset=flags
            )
            yield Case(f"too big, TTL {ttl}", 1, h.ethernet(packet))
            tunnel = h.ipv4(LOOPBACK, PLACES[8], h.IPIP, packet, ttl=ttl, flags_offset=flags)
            yield Case(f"too big in a tunnel, TTL {ttl}", 1, h.ethernet(tunnel))


def _flows() -> Iterator[Case]:
    """Flows that differ in every bit: each of their hashes picks one of many."""
    rng = random.Random(2014)
    for number in range(64):
        client = IPv4Address(int(CLIENTS[0]) & 0xFFFFFF00 | rng.randrange(1, 32))
        build, protocol = ((h.tcp, h.TCP), (h.udp, h.UDP))[number % 2]
        l4 = build(rng.randrange(1, 65536), rng.randrange(1, 65536))
        to_vip = h.ipv4(client, VIPS[13], protocol, l4)
        yield Case(f"flow {number}", 1, h.ethernet(to_vip))
        yield Case(f"flow {number} in a tunnel", 1, h.ethernet(h.ipv4(LOOPBACK, TIPS[0], h.IPIP, to_vip)))
        routed = h.ipv4(client, SERVERS[number % len(SERVERS)], protocol, l4)
        yield Case(f"flow {number} to a server", 1, h.ethernet(routed))


def _tunnels() -> Iterator[Case]:
    """What a tunnel may be: marks, checksums, sizes, and what the next tunnel must not take over."""
    client, vip = CLIENTS[2], VIPS[3]
    for outer_mark in range(4):
        for mark in range(4):
            inner = h.ipv4(client, vip, h.UDP, h.udp(11, 80), tos=0xA8 | mark)
            tunnel = h.ipv4(LOOPBACK, TIPS[0], h.IPIP, inner, tos=0x54 | outer_mark)
            yield Case(f"marks {outer_mark} and {mark}", 1, h.ethernet(tunnel))
    inner = h.ipv4(client, vip, h.UDP, h.udp(12, 80))
    for wanted in (0, 1, 0xFDFF, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE):
        tunnel = h.with_checksum(LOOPBACK, SERVERS[2], inner, wanted, h.IPIP)
        yield Case(f"tunnel with checksum {wanted:#06x}", 2, h.ethernet(tunnel))
    for place, mtu in ((PLACES[7], 88), (PLACES[8], 129), (PLACES[9], 576)):
        for length in (mtu - 1, mtu, mtu + 1):
            large = h.ipv4(client, vip, h.UDP, h.udp(13, 80, h.fill(length - 48)))
            tunnel = h.ipv4(LOOPBACK, place, h.IPIP, large)
            yield Case(f"tunnel of {length} bytes", 3, h.ethernet(tunnel))
    for flags in (0x8000, 0x4000):
        for offset in (h.MORE_FRAGMENTS, 1, 0):
            inner = h.ipv4(client, vip, h.UDP, h.udp(14, 80), flags_offset=offset, ttl=2)
            tunnel = h.ipv4(LOOPBACK, TIPS[0], h.IPIP, inner, flags_offset=flags, identification=0x1234)
            yield Case(f"fragment {offset:#x} in a tunnel {flags:#x}", 1, h.ethernet(tunnel))
            expired = h.ipv4(client, vip, h.UDP, h.udp(14, 80), flags_offset=offset, ttl=1)
            tunnel = h.ipv4(LOOPBACK, TIPS[0], h.IPIP, expired, flags_offset=flags, identification=0x1234)
            yield Case(f"expired fragment {offset:#x} in a tunnel {flags:#x}", 1, h.ethernet(tunnel))


def _sources() -> Iterator[Case]:
    """Sources at the edges of what nobody has, and errors about each kind of echo and with all options."""
    for first in (0, 1, 2, 126, 127, 128, 191, 192, 223, 224, 225, 239, 240, 254, 255):
        packet = h.ipv4(IPv4Address(first << 24 | 0x010203), SERVERS[4], h.UDP, h.udp(15, 80))
        yield Case(f"from {first}.1.2.3", 1, h.ethernet(packet))
    for kind in (0, 1, 3, 8, 9, 10):
        quoted = h.ipv4(VIPS[13], CLIENTS[4], h.ICMP, h.icmp(kind, 0, 0x30000 + kind))
        for options in (b"", bytes(40)):
            error = h.ipv4(SERVERS[1], VIPS[13], h.ICMP, h.icmp(3, 1, 0, quoted), options=options)
            yield Case(f"error about ICMP {kind}, {len(options)} bytes of options", 1, h.ethernet(error))
    for client, vip, protocol, source_port, destination_port in PINNED:
        if protocol in (h.TCP, h.UDP):
            l4 = (h.tcp if protocol == h.TCP else h.udp)(source_port, destination_port)
            packet = h.ipv4(client, vip, protocol, l4)
            yield Case(f"pinned flow of {client} to {vip}", 1, h.ethernet(packet))


def _expired() -> Iterator[Case]:
    """Packets that an ICMP error would answer, of each kind."""
    for port in PORTS:
        for ttl in (1, 64):
            length = 8 if ttl == 1 else 1500
            packet = h.ipv4(CLIENTS[1], SERVERS[1], h.UDP, h.udp(9, 9, h.fill(length)), ttl=ttl)
            yield Case(f"TTL {ttl}, {length} bytes", port, h.ethernet(packet))


def _counted(client: IPv4Address, vip: IPv4Address, total_len: int) -> bytes:
    return h.ipv4(client, vip, h.UDP, h.udp(7, 7, h.fill(8)), total_len=total_len)


def _with_ttl(ttl: int) -> Iterator[tuple[str, bytes]]:
    for flags in (0, h.DONT_FRAGMENT):
        plain = h.ipv4(CLIENTS[1], SERVERS[1], h.TCP, h.tcp(9, 9), ttl=ttl, flags_offset=flags)
        balanced = h.ipv4(CLIENTS[1], VIPS[3], h.TCP, h.tcp(9, 80), ttl=ttl, flags_offset=flags)
        yield "to a server", plain
        yield "to a VIP", balanced
        for inner_ttl in (1, 64):
            inner = h.ipv4(CLIENTS[1], VIPS[3], h.TCP, h.tcp(9, 80), ttl=inner_ttl, flags_offset=flags)
            yield f"tunnel to a TIP, inner TTL {inner_ttl}", h.ipv4(LOOPBACK, TIPS[0], h.IPIP, inner, ttl=ttl)
            yield (
                f"tunnel in transit, inner TTL {inner_ttl}",
                h.ipv4(LOOPBACK, SERVERS[2], h.IPIP, inner, ttl=ttl),
            )


def _sizes() -> Iterable[Case]:
    for mtu in (68, 88, 120, 129, 576, 1280, 1500):
        for length in (mtu - 21, mtu - 20, mtu - 19, mtu, mtu + 1):
            for flags in (0, h.DONT_FRAGMENT):
                for destination in (VIPS[3], VIPS[12], SERVERS[0], PLACES[8]):
                    udp = h.udp(length, 80, h.fill(max(0, length - 28)))
                    packet = h.ipv4(CLIENTS[2], destination, h.UDP, udp, flags_offset=flags)
                    yield Case(f"{length} bytes to {destination}", 1, h.ethernet(packet))
