"""Netlink's messages and attributes: how every family of it frames what it asks and says.

linux/netlink.h. What a family means by them is with who asks: `switch_agent.netlink` (routes),
`host_agent.connections` (sockets), `xdp_switch.features` (interfaces).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
ERROR = struct.Struct("=i")
U32 = struct.Struct("=I")

SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK = 10, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_TYPE_MASK = 0x3FFF


def request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, with what pads it to four bytes."""
    size = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield the kind, flags and body of each message of a datagram."""
    view = memoryview(data)
    at = 0
    while at + HEADER.size <= len(view):
        length, kind, flags, *_ = HEADER.unpack_from(view, at)
        if length < HEADER.size:
            return
        yield kind, flags, view[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the kind and value of each attribute of a message's rest."""
    at = 0
    while at + ATTRIBUTE.size <= len(view):
        length, kind = ATTRIBUTE.unpack_from(view, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, view[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def errno_of(body: memoryview) -> int:
    """Return the errno that a message which ends an answer (`NLMSG_ERROR`, `NLMSG_DONE`) holds; 0 if none."""
    return -int(ERROR.unpack_from(body)[0]) if len(body) >= ERROR.size else 0
