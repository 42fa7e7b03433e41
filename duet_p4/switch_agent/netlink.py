"""The kernel's routes, neighbours and links over rtnetlink, decoded to just what the agent asks.

When a switch dies, every other agent reads dozens of these messages while packets are being lost; a general
library takes ten times as long for each. Layouts: linux/rtnetlink.h, linux/neighbour.h, linux/if_link.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

_GROUPS = 0x1 | 0x4 | 0x40  # RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 16 << 20
_MESSAGE_SIZE = 1 << 18

_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=8BI")
_NEIGHBOR = struct.Struct("=B3xiHBB")
_LINK = struct.Struct("=B3xiII")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_TYPE_MASK = 0x3FFF
_RTN_UNICAST = 1
_IFF_LOWER_UP = 0x10000
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast IPv4 route that is there, or (`new` false) gone: `hops` are interface index and gateway."""

    new: bool
    table: int
    prefix: IPv4Network
    metric: int
    hops: tuple[tuple[int, IPv4Address], ...]


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An IPv4 neighbour; `mac` is None where it is not resolved, or not any more."""

    index: int
    address: IPv4Address
    mac: int | None


@dataclass(frozen=True, slots=True)
class Link:
    """An interface, and whether it is up with carrier."""

    index: int
    up: bool


Message: TypeAlias = Route | Neighbor | Link


class LostEventsError(Exception):
    """More happened than the kernel could keep for this process; some of it was not told."""


class Events:
    """Changes of routes, neighbours and links, as the kernel tells them from now on."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something."""
        return self._socket.fileno()

    def receive(self) -> Iterator[Message]:
        """Yield all there is, in the kernel's order. Raises `LostEventsError`."""
        while True:
            try:
                data = self._socket.recv(_MESSAGE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise LostEventsError from error
            yield from decode(data)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def dump() -> Iterator[Message]:
    """Yield every link, neighbour and route there is. Raises OSError where the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as asking:
        asking.bind((0, 0))
        for sequence, kind in enumerate((_RTM_GETLINK, _RTM_GETNEIGH, _RTM_GETROUTE), 1):
            family = socket.AF_UNSPEC if kind == _RTM_GETLINK else socket.AF_INET
            body = bytes((family,)).ljust(_ROUTE.size, b"\0")
            flags = _NLM_F_REQUEST | _NLM_F_DUMP
            asking.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body)
            done = False
            while not done:
                data = asking.recv(_MESSAGE_SIZE)
                yield from decode(data)
                done = _ends(data)


def decode(data: bytes) -> Iterator[Message]:
    """Yield what the netlink messages in `data` say, as far as the agent asks."""
    for kind, body in _messages(data):
        if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
            message: Message | None = _route(body, kind == _RTM_NEWROUTE)
        elif kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            message = _neighbor(body, kind == _RTM_NEWNEIGH)
        elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
            _, index, flags, _ = _LINK.unpack_from(body)
            message = Link(index, kind == _RTM_NEWLINK and bool(flags & _IFF_LOWER_UP))
        else:
            continue
        if message is not None:
            yield message


def _messages(data: bytes) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(data)
    at = 0
    while at + _HEADER.size <= len(view):
        length, kind, *_ = _HEADER.unpack_from(view, at)
        yield kind, view[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _ends(data: bytes) -> bool:
    for kind, body in _messages(data):
        if kind == _NLMSG_ERROR:
            code = -_ERROR.unpack_from(body)[0]
            raise OSError(code, f"the kernel does not list its state: {os.strerror(code)}")
        if kind == _NLMSG_DONE:
            return True
    return False


def _attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        yield kind & _TYPE_MASK, view[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _route(body: memoryview, new: bool) -> Route | None:
    family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if family != socket.AF_INET or kind != _RTN_UNICAST:
        return None
    destination = metric = 0
    index, gateway = 0, None
    hops: list[tuple[int, IPv4Address]] = []
    for attribute, value in _attributes(body[_ROUTE.size :]):
        if attribute == _RTA_DST:
            destination = int.from_bytes(value)
        elif attribute == _RTA_PRIORITY:
            metric = _U32.unpack(value)[0]
        elif attribute == _RTA_TABLE:
            table = _U32.unpack(value)[0]
        elif attribute == _RTA_OIF:
            index = _U32.unpack(value)[0]
        elif attribute == _RTA_GATEWAY:
            gateway = IPv4Address(bytes(value))
        elif attribute == _RTA_MULTIPATH:
            hops += _multipath(value)
    if gateway is not None:
        hops.append((index, gateway))
    return Route(new, table, IPv4Network((destination, length)), metric, tuple(hops))


def _multipath(view: memoryview) -> Iterator[tuple[int, IPv4Address]]:
    at = 0
    while at + _HOP.size <= len(view):
        length, _, _, index = _HOP.unpack_from(view, at)
        for attribute, value in _attributes(view[at + _HOP.size : at + length]):
            if attribute == _RTA_GATEWAY:
                yield index, IPv4Address(bytes(value))
        at += (length + 3) & ~3


def _neighbor(body: memoryview, new: bool) -> Neighbor | None:
    family, index, state, _, _ = _NEIGHBOR.unpack_from(body)
    if family != socket.AF_INET:
        return None
    address, mac = None, None
    for attribute, value in _attributes(body[_NEIGHBOR.size :]):
        if attribute == _NDA_DST:
            address = IPv4Address(bytes(value))
        elif attribute == _NDA_LLADDR:
            mac = int.from_bytes(value)
    if address is None:
        return None
    return Neighbor(index, address, mac if new and state & _NUD_VALID else None)
