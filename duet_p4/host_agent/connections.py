"""The live TCP connections of a server's DIPs, as its own kernel knows them.

The kernel is asked by sock_diag for those states alone. What is read of an answer is its fixed part: 100,000
sockets take a fraction of a second, where a general library would build as many dictionaries.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from duet_p4.flow_hash import Flow

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_TCP = 6
_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _FIN_WAIT_2, _CLOSE_WAIT = 1, 3, 4, 5, 8
_NEW_SYN_RECEIVED = 12
_LIVE = sum(
    1 << state
    for state in (_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _FIN_WAIT_2, _CLOSE_WAIT, _NEW_SYN_RECEIVED)
)
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=4x2s2s16s16s")
_RECEIVE = 1 << 18


def live_connections() -> list[Flow]:
    """Return the TCP connections of this network namespace that still carry data, as their DIP sees them.

    The source is the peer. Sockets that speak IPv6, too, are among them. Raises OSError.
    """
    flows = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for own_port, peer_port, own, peer in _sockets(family):
            ours, theirs = _address(family, own), _address(family, peer)
            if ours and theirs:
                flows.append(Flow(theirs, ours, _TCP, int.from_bytes(peer_port), int.from_bytes(own_port)))
    return flows


def _sockets(family: int) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Yield ports and addresses, the own ones first."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        request = struct.pack("=BBBxI48x", family, _TCP, 0, _LIVE)
        asked.send(
            _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request
        )
        while True:
            answer = asked.recv(_RECEIVE)
            at = 0
            while at < len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", answer, at + _HEADER.size)
                    raise OSError(-code, "the kernel does not list its TCP sockets")
                yield _MESSAGE.unpack_from(answer, at + _HEADER.size)
                at += (length + 3) & ~3


def _address(family: int, raw: bytes) -> IPv4Address | None:
    """Read an address; None for one that is IPv6 alone."""
    return IPv4Address(raw[:4]) if family == socket.AF_INET else IPv6Address(raw).ipv4_mapped
