"""The kernel's routes, neighbours and links over rtnetlink, decoded to just what the agent asks.

When a switch dies, every other agent reads dozens of these messages while packets are being lost; a general
library takes ten times as long for each. Layouts: linux/rtnetlink.h, linux/neighbour.h, linux/if_link.h.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

from duet_p4.netlink_messages import (
    NETLINK_GET_STRICT_CHK,
    NLM_F_APPEND,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    U32,
    attribute,
    attributes,
    errno_of,
    messages,
    request,
)
from duet_p4.switch_agent.rtnetlink import (
    NDA_DST,
    NDA_LLADDR,
    NEIGHBOR,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    RTN_UNICAST,
)

_GROUPS = 0x1 | 0x4 | 0x40 | 1 << 31  # RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE; RTNLGRP_NEXTHOP
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 16 << 20
_MESSAGE_SIZE = 1 << 18

_LINK = struct.Struct("=B3xiII")
_HOP = struct.Struct("=HBBi")

_A_TURN = 500
"""Messages that are read before others have their turn."""
_ATTEMPTS = 20
_REST_S = 0.01
_RTM_F_CLONED = 0x200
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route that is there, or (`new` false) gone.

    `hops` are interface index and gateway of what can be sent to: a route of another `kind` than unicast
    (a blackhole, say) has none. Of routes with one prefix and metric the first is used: a new one comes
    first, unless it `replaces` that or comes `last`. That a hop is marked dead says nothing: the kernel does
    not tell when that changes, and whether it can be sent to is known from its link and neighbour. `nexthop`
    is the object (`ip nexthop`) that has its hops, which the kernel lists all the same unless somebody has
    turned net.ipv4.nexthop_compat_mode off; 0 where the route has them itself.
    """

    new: bool
    table: int
    prefix: IPv4Network
    metric: int
    hops: tuple[tuple[int, IPv4Address], ...]
    kind: int
    replaces: bool = False
    last: bool = False
    nexthop: int = 0


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An IPv4 neighbour; `mac` is None where it is not resolved, or not any more."""

    index: int
    address: IPv4Address
    mac: int | None


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: whether it is up with carrier, and whether it was taken up at all."""

    index: int
    up: bool
    enabled: bool


@dataclass(frozen=True, slots=True)
class NexthopChange:
    """A nexthop object is another one now, or gone. Of routes that go with it the kernel says nothing."""


Message: TypeAlias = Route | Neighbor | Link | NexthopChange


class LostEventsError(Exception):
    """More happened than the kernel could keep for this process; some of it was not told."""


class Events:
    """Changes of routes, neighbours and links, as the kernel tells them from now on."""

    def __init__(self, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something."""
        return self._socket.fileno()

    def receive(self) -> Iterator[Message]:
        """Yield what there is, in the kernel's order, but no more than a turn's worth.

        Raises `LostEventsError`: then nothing that is still there is worth anything, see `drain`.
        """
        for _ in range(_A_TURN):
            try:
                data = self._socket.recv(_MESSAGE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise LostEventsError from error
            yield from decode(data)

    def waiting(self) -> bool:
        """Return whether there is something."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def drain(self) -> None:
        """Throw away all there is. Only then does the kernel keep events again that it had no room for."""
        while True:
            try:
                self._socket.recv(_MESSAGE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


class Dump:
    """Asks the kernel for all links, IPv4 neighbours and IPv4 routes of one table.

    Made in the network namespace that is asked about; it may then ask from any thread.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def links_and_neighbors(self) -> list[Message]:
        """Return every link, then every neighbour. Raises as `routes` does."""
        return [
            *self._list(RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0)),
            *self._list(RTM_GETNEIGH, NEIGHBOR.pack(socket.AF_INET, 0, 0, 0, 0)),
        ]

    def routes(self, table: int) -> list[Message]:
        """Return every route of a table as they were at one moment; those of a prefix in their order.

        Where they changed while the kernel listed them, they are asked for again. Raises OSError where the
        kernel refuses, or never comes to rest.
        """
        wanted = attribute(RTA_TABLE, U32.pack(table))
        return self._list(RTM_GETROUTE, ROUTE.pack(socket.AF_INET, *(0,) * 8) + wanted)

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def _list(self, kind: int, body: bytes) -> list[Message]:
        for _ in range(_ATTEMPTS):
            self._sequence += 1
            self._socket.send(request(kind, NLM_F_DUMP, self._sequence, body))
            found: list[Message] = []
            interrupted = done = False
            while not done:
                data = self._socket.recv(_MESSAGE_SIZE)
                found += decode(data)
                cut, done = _ends(data)
                interrupted = interrupted or cut
            if not interrupted:
                return found
            time.sleep(_REST_S)
        raise OSError(errno.EAGAIN, "the kernel's state changes too fast to be listed")


def decode(data: bytes) -> Iterator[Message]:
    """Yield what the netlink messages in `data` say, as far as the agent asks."""
    for kind, flags, body in messages(data):
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            message: Message | None = _route(body, flags, kind == RTM_NEWROUTE)
        elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            message = _neighbor(body, kind == RTM_NEWNEIGH)
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            _, index, state, _ = _LINK.unpack_from(body)
            there = kind == RTM_NEWLINK
            message = Link(index, there and bool(state & _IFF_LOWER_UP), there and bool(state & _IFF_UP))
        elif kind == RTM_DELNEXTHOP or (kind == RTM_NEWNEXTHOP and not flags & NLM_F_EXCL):
            message = NexthopChange()
        else:
            continue
        if message is not None:
            yield message


def _ends(data: bytes) -> tuple[bool, bool]:
    """Return whether a list was interrupted by changes, and whether it ends here. Raises OSError."""
    interrupted = False
    for kind, flags, body in messages(data):
        interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
        if kind in (NLMSG_ERROR, NLMSG_DONE):
            if code := errno_of(body):
                raise OSError(code, f"the kernel does not list its state: {os.strerror(code)}")
            return interrupted, True
    return interrupted, False


def _route(body: memoryview, flags: int, new: bool) -> Route | None:
    family, length, _, tos, table, _, _, kind, state = ROUTE.unpack_from(body)
    if family != socket.AF_INET or tos or state & _RTM_F_CLONED:
        return None
    destination = metric = nexthop = 0
    index, gateway = 0, None
    hops: list[tuple[int, IPv4Address]] = []
    for number, value in attributes(body[ROUTE.size :]):
        if number == RTA_DST:
            destination = int.from_bytes(value)
        elif number == RTA_PRIORITY:
            metric = U32.unpack(value)[0]
        elif number == RTA_TABLE:
            table = U32.unpack(value)[0]
        elif number == RTA_OIF:
            index = U32.unpack(value)[0]
        elif number == RTA_GATEWAY:
            gateway = IPv4Address(bytes(value))
        elif number == RTA_NH_ID:
            nexthop = U32.unpack(value)[0]
        elif number == RTA_MULTIPATH:
            hops += _multipath(value)
    if gateway is not None:
        hops.append((index, gateway))
    return Route(
        new,
        table,
        IPv4Network((destination, length)),
        metric,
        tuple(hops) if kind == RTN_UNICAST else (),
        kind,
        replaces=bool(flags & NLM_F_REPLACE),
        last=bool(flags & NLM_F_APPEND),
        nexthop=nexthop,
    )


def _multipath(view: memoryview) -> Iterator[tuple[int, IPv4Address]]:
    at = 0
    while at + _HOP.size <= len(view):
        length, _, _, index = _HOP.unpack_from(view, at)
        if length < _HOP.size:
            return
        for number, value in attributes(view[at + _HOP.size : at + length]):
            if number == RTA_GATEWAY:
                yield index, IPv4Address(bytes(value))
        at += (length + 3) & ~3


def _neighbor(body: memoryview, new: bool) -> Neighbor | None:
    family, index, state, _, _ = NEIGHBOR.unpack_from(body)
    if family != socket.AF_INET:
        return None
    address, mac = None, None
    for number, value in attributes(body[NEIGHBOR.size :]):
        if number == NDA_DST:
            address = IPv4Address(bytes(value))
        elif number == NDA_LLADDR:
            mac = int.from_bytes(value)
    if address is None:
        return None
    return Neighbor(index, address, mac if new and state & _NUD_VALID else None)
