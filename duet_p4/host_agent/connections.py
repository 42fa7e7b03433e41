"""The live TCP connections of a server's DIPs, as its own kernel knows them.

The kernel is asked by sock_diag for those states alone. What is read of an answer, where it lies, is its
fixed part and one number of `struct tcp_info`: 50,000 sockets take 0.3 s, half as long again if each message
and attribute is cut out first, and a general library builds as many dictionaries.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from duet_p4.flow_hash import Flow
from duet_p4.netlink_messages import (
    ATTRIBUTE,
    HEADER,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    errno_of,
    request,
)

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
"""The older of two requests: its answer has IPv4 and IPv6, with one look through the kernel's table."""
_TCP = 6
_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _FIN_WAIT_2, _CLOSE_WAIT = 1, 3, 4, 5, 8
_NEW_SYN_RECEIVED = 12
_LIVE = sum(
    1 << state
    for state in (_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _FIN_WAIT_2, _CLOSE_WAIT, _NEW_SYN_RECEIVED)
)
_MESSAGE = struct.Struct("=B3x2s2s16s16s")
_MESSAGE_BYTES = 72
_INET_DIAG_INFO = 2
_LAST_ACK_RECEIVED = struct.Struct("=56xI")
"""Of `struct tcp_info`: so many milliseconds since the peer's last segment, each of which acknowledges."""
_RECEIVE = 1 << 18


class Connection(NamedTuple):
    """A TCP connection as its DIP sees it: the source is the peer, last heard of `idle_s` ago."""

    flow: Flow
    idle_s: float


def live_connections() -> list[Connection]:
    """Return the TCP connections of this network namespace that still carry data.

    Sockets that speak IPv6, too, are among them. Raises OSError.
    """
    found = []
    for family, own_port, peer_port, own, peer, idle_ms in _sockets():
        ours, theirs = _address(family, own), _address(family, peer)
        if ours and theirs:
            flow = Flow(theirs, ours, _TCP, int.from_bytes(peer_port), int.from_bytes(own_port))
            found.append(Connection(flow, idle_ms / 1e3))
    return found


def _sockets() -> Iterator[tuple[int, bytes, bytes, bytes, bytes, int]]:
    """Yield family, ports and addresses, the own ones first, and for how many ms nothing was heard."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        wanted = struct.pack("=3xB48xII", 1 << _INET_DIAG_INFO - 1, _LIVE, 0)
        asked.send(request(_TCPDIAG_GETSOCK, NLM_F_DUMP, 1, wanted))
        while True:
            answer = asked.recv(_RECEIVE)
            at = 0
            while at < len(answer):
                length, kind, *_ = HEADER.unpack_from(answer, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = errno_of(memoryview(answer)[at + HEADER.size :])
                    raise OSError(code, "the kernel does not list its TCP sockets")
                message = _MESSAGE.unpack_from(answer, at + HEADER.size)
                yield *message, _idle_ms(answer, at + HEADER.size + _MESSAGE_BYTES, at + length)
                at += (length + 3) & ~3


def _idle_ms(answer: bytes, at: int, end: int) -> int:
    """Read a message's attributes. What is only being opened has no `tcp_info`: it was heard of just now."""
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(answer, at)
        if kind == _INET_DIAG_INFO:
            return int(_LAST_ACK_RECEIVED.unpack_from(answer, at + ATTRIBUTE.size)[0])
        at += (length + 3) & ~3
    return 0


def _address(family: int, raw: bytes) -> IPv4Address | None:
    """Read an address; None for one that is IPv6 alone."""
    return IPv4Address(raw[:4]) if family == socket.AF_INET else IPv6Address(raw).ipv4_mapped
