"""A flood of SYNs to VIPs, each of a connection that nobody wants, from addresses of the Internet's."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address

from duet_p4.checksum import checksum
from mininet_topos import fattree
from mininet_topos.experiments.setting import Running
from mininet_topos.testbed import namespaces

SYNS = 50_000
_FROM = "outside"
_SOURCES = (IPv4Address("50.0.0.0"), IPv4Address("90.0.0.0"))
_PORT = 80
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20


def flood(testbed: Running, vips: Sequence[IPv4Address], count: int = SYNS, seed: int = 1) -> None:
    """Send `count` SYNs with sources of their own from outside to VIPs, as fast as one thread can."""
    link = fattree.links(testbed.graph, _FROM)[0]
    macs = bytes.fromhex((link.peer(_FROM).mac + link.port(_FROM).mac).replace(":", ""))
    sent = list(frames(macs, vips, count, seed))
    with namespaces.entered(testbed.folder.namespace(_FROM)):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((link.port(_FROM).name, 0))
        raw.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        for frame in sent:
            with suppress(OSError):  # The link has no room for more just now.
                raw.send(frame)


def frames(macs: bytes, vips: Sequence[IPv4Address], count: int, seed: int) -> Iterator[bytes]:
    """Yield SYNs whose checksums are right: their DIPs answer them."""
    rng = random.Random(seed)
    first, last = (int(address) for address in _SOURCES)
    for number in range(count):
        ends = struct.pack("!II", rng.randrange(first, last), int(vips[number % len(vips)]))
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, number & 0xFFFF, 0, 64, 6, 0) + ends
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        ports = (rng.randrange(1024, 65_536), _PORT, rng.getrandbits(32))
        tcp = struct.pack("!HHIIBBHHH", *ports, 0, 0x50, 0x02, 65_535, 0, 0)
        over = checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp)
        yield macs + b"\x08\x00" + ip + tcp[:16] + struct.pack("!H", over) + tcp[18:]
