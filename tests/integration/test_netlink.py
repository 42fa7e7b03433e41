"""What the kernel says over rtnetlink, decoded, against what pyroute2 makes of the same kernel."""

import os
import select
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from pyroute2 import IPRoute

from duet_p4.switch_agent import netlink
from duet_p4.switch_agent.netlink import Link, Message, Neighbor, Route
from tests.integration.netns import inside, ip, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def namespace() -> Iterator[str]:
    with namespaces("nl") as (space,), inside(space):
        ip("link add one type veth peer name two", space)
        for end, address in (("one", "172.31.0.0/31"), ("two", "172.31.0.2/31")):
            ip(f"link set {end} up", space)
            ip(f"addr add {address} dev {end}", space)
        ip("neigh add 172.31.0.1 lladdr 02:00:00:00:00:07 dev one", space)
        ip("route add 10.0.0.0/16 via 172.31.0.1", space)
        ip("route add 10.0.0.1/32 metric 32 nexthop via 172.31.0.1 nexthop via 172.31.0.3 weight 3", space)
        ip("route add 100.0.0.0/8 via 172.31.0.3 table 1000", space)
        ip("route add default via 172.31.0.1 metric 5", space)
        ip("route add blackhole 203.0.113.0/24", space)
        yield space


def by_pyroute2() -> set[Message]:
    found: set[Message] = set()
    with IPRoute() as library:
        for link in library.get_links():
            found.add(Link(link["index"], bool(link["flags"] & 0x10000)))
        for neighbor in library.get_neighbours(family=socket.AF_INET):
            mac = neighbor.get("NDA_LLADDR")
            number = int(mac.replace(":", ""), 16) if mac else None
            found.add(Neighbor(neighbor["ifindex"], IPv4Address(neighbor.get("NDA_DST")), number))
        for route in library.get_routes(family=socket.AF_INET):
            if route["type"] == 1:
                prefix = IPv4Network((route.get("RTA_DST") or 0, route["dst_len"]))
                metric = route.get("RTA_PRIORITY") or 0
                found.add(Route(True, route.get("RTA_TABLE"), prefix, metric, tuple(hops(route))))
    return found


def hops(route: Any) -> Iterator[tuple[int, IPv4Address]]:
    for hop in route.get("RTA_MULTIPATH") or []:
        yield hop["oif"], IPv4Address(hop.get("RTA_GATEWAY"))
    if route.get("RTA_GATEWAY"):
        yield route.get("RTA_OIF"), IPv4Address(route.get("RTA_GATEWAY"))


def test_a_dump_is_what_pyroute2_reads(namespace: str) -> None:
    found = list(netlink.dump())
    assert set(found) == by_pyroute2()
    assert len(found) == len(set(found))
    multipath = next(m for m in found if isinstance(m, Route) and m.prefix == IPv4Network("10.0.0.1/32"))
    assert (multipath.metric, len(multipath.hops)) == (32, 2)


def test_changes_are_told_in_their_order(namespace: str) -> None:
    events = netlink.Events()
    try:
        assert list(events.receive()) == []
        ip("route add 10.9.0.0/16 via 172.31.0.1", namespace)
        ip("route del 10.9.0.0/16", namespace)
        ip("neigh del 172.31.0.1 dev one", namespace)
        ip("link set two down", namespace)
        index = socket.if_nametoindex("one")
        found: list[Message] = []
        while Link(index, False) not in found:
            assert select.select([events], [], [], 5)[0], f"no loss of carrier among {found}"
            found += events.receive()
        gateway = (index, IPv4Address("172.31.0.1"))
        prefix = IPv4Network("10.9.0.0/16")
        changes = [message for message in found if isinstance(message, Route) and message.prefix == prefix]
        assert changes == [Route(new, 254, prefix, 0, (gateway,)) for new in (True, False)]
        assert Neighbor(index, IPv4Address("172.31.0.1"), None) in found
    finally:
        events.close()
