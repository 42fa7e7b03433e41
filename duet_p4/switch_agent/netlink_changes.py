"""Changes of the kernel's routes and neighbours over rtnetlink, each in one request that the kernel answers.

What is announced is one such change, so what it costs is part of every migration; a general library takes
many times as long. Layouts: linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv4Network

from duet_p4.netlink_messages import (
    HEADER,
    NETLINK_CAP_ACK,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLMSG_ERROR,
    SOL_NETLINK,
    U32,
    attribute,
    errno_of,
    request,
)
from duet_p4.switch_agent.rtnetlink import (
    NDA_DST,
    NDA_FLAGS_EXT,
    NEIGHBOR,
    NTF_EXT_LEARNED,
    NTF_EXT_MANAGED,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_TABLE,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTN_BLACKHOLE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
)

ROUTE_PROTOCOL = 201
"""Whose the agent's own routes are, in the kernel's tables (a number nobody else uses)."""


_ANSWER = 1 << 16


class RefusedError(OSError):
    """The kernel does not make a change; `errno` says why."""


class Changes:
    """Changes the routes and neighbours of the network namespace that it is made in.

    Every call raises `RefusedError` where the kernel refuses. The kernel answers within the call; it may hold
    that up while interfaces of the machine change.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def add_blackhole(self, address: IPv4Address, table: int) -> None:
        """Add a route to one address that leads nowhere; one that is there already is an error."""
        self._ask(
            RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, self._route(IPv4Network(address), table, RTN_BLACKHOLE)
        )

    def delete_blackhole(self, address: IPv4Address, table: int) -> None:
        """Delete such a route; one that is not there is an error."""
        self._ask(RTM_DELROUTE, 0, self._route(IPv4Network(address), table, RTN_BLACKHOLE))

    def replace_route(self, prefix: IPv4Network, gateway: IPv4Address, interface: int, table: int) -> None:
        """Have a route by a gateway that is on an interface's link."""
        body = self._route(prefix, table, RTN_UNICAST, RTNH_F_ONLINK)
        body += attribute(RTA_GATEWAY, gateway.packed) + attribute(RTA_OIF, U32.pack(interface))
        self._ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)

    def replace_neighbor(self, interface: int, address: IPv4Address) -> None:
        """Have the kernel resolve a neighbour, and keep it resolved.

        It does not count against the table's size, which all network namespaces of a machine share.
        """
        body = NEIGHBOR.pack(socket.AF_INET, interface, 0, NTF_EXT_LEARNED, 0)
        body += attribute(NDA_DST, address.packed) + attribute(NDA_FLAGS_EXT, U32.pack(NTF_EXT_MANAGED))
        self._ask(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)

    def delete_neighbor(self, interface: int, address: IPv4Address) -> None:
        """Have the kernel forget a neighbour."""
        body = NEIGHBOR.pack(socket.AF_INET, interface, 0, 0, 0)
        self._ask(RTM_DELNEIGH, 0, body + attribute(NDA_DST, address.packed))

    def close(self) -> None:
        """Change no more."""
        self._socket.close()

    def _route(self, prefix: IPv4Network, table: int, kind: int, flags: int = 0) -> bytes:
        header = ROUTE.pack(socket.AF_INET, prefix.prefixlen, 0, 0, 0, ROUTE_PROTOCOL, 0, kind, flags)
        destination = attribute(RTA_DST, prefix.network_address.packed)
        return header + destination + attribute(RTA_TABLE, U32.pack(table))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(request(kind, NLM_F_ACK | flags, self._sequence, body))
        while True:
            answer = self._socket.recv(_ANSWER)
            _, what, _, sequence, _ = HEADER.unpack_from(answer)
            if what == NLMSG_ERROR and sequence == self._sequence:
                break
        if code := errno_of(memoryview(answer)[HEADER.size :]):
            raise RefusedError(code, os.strerror(code))
