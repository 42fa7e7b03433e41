"""The live connections of a server's DIPs, as its own kernel knows them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from duet_p4.flow_hash import Flow

_TCP = 6
_ESTABLISHED = 1
_SYN_RECEIVED = 3
_CLOSE_WAIT = 8
_FIN_WAIT = (4, 5)
_LIVE = frozenset({_ESTABLISHED, _SYN_RECEIVED, _CLOSE_WAIT, *_FIN_WAIT})


def live_connections() -> list[Flow]:
    """Return the TCP connections of this network namespace that still carry data, as their DIP sees them.

    The source is the peer. Linux lists them in /proc/net/tcp and, for sockets that speak IPv6 too,
    /proc/net/tcp6.
    """
    flows = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/thread-self/net", table)
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            words = line.split()
            if int(words[3], 16) not in _LIVE:
                continue
            (own, own_port), (peer, peer_port) = (_endpoint(word) for word in words[1:3])
            if own is not None and peer is not None:
                flows.append(Flow(peer, own, _TCP, peer_port, own_port))
    return flows


def _endpoint(text: str) -> tuple[IPv4Address | None, int]:
    """Read an address as /proc prints it: words in host byte order; None for one that is IPv6 alone."""
    digits, port = text.split(":")
    words = [struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8)]
    if len(words) == 1:
        return IPv4Address(words[0]), int(port, 16)
    return IPv6Address(b"".join(words)).ipv4_mapped, int(port, 16)
