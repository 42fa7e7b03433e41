"""Changes of the kernel's routes and neighbours over rtnetlink, each in one request that the kernel answers.

What is announced is one such change, so what it costs is part of every migration; a general library takes
many times as long. Layouts: linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv4Network

from duet_p4.switch_agent.rtnetlink import (
    ATTRIBUTE,
    ERROR,
    HEADER,
    NEIGHBOR,
    NLMSG_ERROR,
    ROUTE,
    SOL_NETLINK,
    U32,
)

ROUTE_PROTOCOL = 201
"""Whose the agent's own routes are, in the kernel's tables (a number nobody else uses)."""


_ANSWER = 1 << 16
_REQUEST, _ACK = 0x1, 0x4
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_NETLINK_CAP_ACK = 10
_NEWROUTE, _DELROUTE = 24, 25
_NEWNEIGH, _DELNEIGH = 28, 29
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_NDA_DST, _NDA_FLAGS_EXT = 1, 15
_UNICAST, _BLACKHOLE = 1, 6
_ONLINK = 4
_EXT_LEARNED, _EXT_MANAGED = 0x10, 1


class RefusedError(OSError):
    """The kernel does not make a change; `errno` says why."""


class Changes:
    """Changes the routes and neighbours of the network namespace that it is made in.

    Every call raises `RefusedError` where the kernel refuses. The kernel answers within the call; it may hold
    that up while interfaces of the machine change.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def add_blackhole(self, address: IPv4Address, table: int) -> None:
        """Add a route to one address that leads nowhere; one that is there already is an error."""
        self._ask(_NEWROUTE, _CREATE | _EXCL, self._route(IPv4Network(address), table, _BLACKHOLE))

    def delete_blackhole(self, address: IPv4Address, table: int) -> None:
        """Delete such a route; one that is not there is an error."""
        self._ask(_DELROUTE, 0, self._route(IPv4Network(address), table, _BLACKHOLE))

    def replace_route(self, prefix: IPv4Network, gateway: IPv4Address, interface: int, table: int) -> None:
        """Have a route by a gateway that is on an interface's link."""
        body = self._route(prefix, table, _UNICAST, _ONLINK)
        body += _attribute(_RTA_GATEWAY, gateway.packed) + _attribute(_RTA_OIF, U32.pack(interface))
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body)

    def replace_neighbor(self, interface: int, address: IPv4Address) -> None:
        """Have the kernel resolve a neighbour, and keep it resolved.

        It does not count against the table's size, which all network namespaces of a machine share.
        """
        body = NEIGHBOR.pack(socket.AF_INET, interface, 0, _EXT_LEARNED, 0)
        body += _attribute(_NDA_DST, address.packed) + _attribute(_NDA_FLAGS_EXT, U32.pack(_EXT_MANAGED))
        self._ask(_NEWNEIGH, _CREATE | _REPLACE, body)

    def delete_neighbor(self, interface: int, address: IPv4Address) -> None:
        """Have the kernel forget a neighbour."""
        body = NEIGHBOR.pack(socket.AF_INET, interface, 0, 0, 0)
        self._ask(_DELNEIGH, 0, body + _attribute(_NDA_DST, address.packed))

    def close(self) -> None:
        """Change no more."""
        self._socket.close()

    def _route(self, prefix: IPv4Network, table: int, kind: int, flags: int = 0) -> bytes:
        header = ROUTE.pack(socket.AF_INET, prefix.prefixlen, 0, 0, 0, ROUTE_PROTOCOL, 0, kind, flags)
        destination = _attribute(_RTA_DST, prefix.network_address.packed)
        return header + destination + _attribute(_RTA_TABLE, U32.pack(table))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        head = HEADER.pack(HEADER.size + len(body), kind, _REQUEST | _ACK | flags, self._sequence, 0)
        self._socket.send(head + body)
        while True:
            answer = self._socket.recv(_ANSWER)
            _, what, _, sequence, _ = HEADER.unpack_from(answer)
            if what == NLMSG_ERROR and sequence == self._sequence:
                break
        code = -ERROR.unpack_from(answer, HEADER.size)[0]
        if code:
            raise RefusedError(code, os.strerror(code))


def _attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute; every value here is a multiple of four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value
