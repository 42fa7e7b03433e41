"""The FatTree and its address plan."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mininet_topos import addresses
from mininet_topos.addresses import Kind
from mininet_topos.fattree import FABRIC_MTU, FatTree, fattree, links, nodes


@pytest.fixture(scope="module")
def paper() -> nx.Graph:
    return fattree()


def test_the_default_is_the_testbed_of_the_paper(paper: nx.Graph) -> None:
    kinds = Counter(node.kind for node in nodes(paper))
    assert kinds == {
        Kind.CORE: 2,
        Kind.AGG: 4,
        Kind.TOR: 4,
        Kind.SMUX: 3,
        Kind.SERVER: 60,
        Kind.CLIENT: 5,
    }
    assert sum(node.is_dip for node in nodes(paper)) == 34
    assert [next(iter(paper[f"smux{n}"])) for n in (1, 2, 3)] == ["tor1", "tor2", "tor3"]


def test_dips_are_spread_evenly_over_the_tors(paper: nx.Graph) -> None:
    per_tor = Counter(next(iter(paper[node.name])) for node in nodes(paper) if node.is_dip)
    assert per_tor == {"tor1": 9, "tor2": 9, "tor3": 8, "tor4": 8}


def test_tors_reach_the_aggs_of_their_container_only(paper: nx.Graph) -> None:
    assert {name for name in paper["tor3"] if name.startswith("agg")} == {"agg3", "agg4"}


def test_the_outside_client_is_attached_to_every_core(paper: nx.Graph) -> None:
    assert set(paper["outside"]) == {"core1", "core2"}


def test_aggs_share_cores_where_each_reaches_only_some() -> None:
    graph = fattree(FatTree(containers=3, aggs=4, cores=40, cores_per_agg=10, servers=0, dip_servers=0))
    cores = [sum(1 for name in graph[f"core{n}"] if name.startswith("agg")) for n in range(1, 41)]
    assert cores == [3] * 40


def test_addresses_are_those_of_the_plan(paper: nx.Graph) -> None:
    by_name = {node.name: node for node in nodes(paper)}
    assert by_name["tor4"].prefix == IPv4Network("100.2.2.0/24")
    assert by_name["server1"].address == IPv4Address("100.1.1.17")
    assert by_name["server60"].address == IPv4Address("100.2.2.241")
    assert by_name["client4"].address == IPv4Address("100.2.2.1")
    assert by_name["outside"].address == IPv4Address("192.0.2.1")
    assert all(
        node.loopback in IPv4Network("172.30.0.0/24") for node in nodes(paper, *addresses.SWITCHES, Kind.SMUX)
    )


def test_as_numbers_follow_rfc_7938(paper: nx.Graph) -> None:
    asn = {node.name: node.asn for node in nodes(paper)}
    assert asn["core1"] == asn["core2"]
    assert asn["agg1"] == asn["agg2"] != asn["agg3"] == asn["agg4"]
    own = [asn[name] for name in asn if name.startswith(("tor", "smux"))]
    assert len(set(own)) == len(own) == 7
    for link in links(paper):
        ends = [asn[port.node] for port in link.ends]
        assert None in ends or ends[0] != ends[1], f"{link} is within one AS"


def test_the_fabric_has_room_for_the_outer_header(paper: nx.Graph) -> None:
    for link in links(paper):
        client = any(port.node.startswith(("client", "outside")) for port in link.ends)
        assert link.ends[0].mtu == link.ends[1].mtu == (1500 if client else FABRIC_MTU)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ({"containers": 0}, "at least one of containers, not 0"),
        ({"tors": -1}, "at least one of tors, not -1"),
        ({"containers": 256}, "containers: 256 is more than 255"),
        ({"servers": -1}, "servers: -1 is negative"),
        ({"servers": 256}, "servers: 256 is more than the 255"),
        ({"cores_per_agg": 3}, "cores_per_agg: 3 is not within 1..2"),
        ({"aggs": 1, "cores_per_agg": 1}, "1 Aggs with 1 Cores each leave some of the 2 Cores unconnected"),
        ({"dip_servers": 61}, "dip_servers: 61 is not within 0..60"),
        ({"smux_tors": (5,)}, "there is no ToR 5, the ToRs are 1..4"),
        ({"host_bps": 0}, "host_bps: a capacity must be positive, not 0"),
    ],
)
def test_an_impossible_size_is_refused_with_the_reason(size: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        FatTree(**size)


def test_a_tree_beyond_the_address_plan_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"link: 32769 is out of the address plan's range 1\.\.32768"):
        fattree(FatTree(containers=40, tors=40, servers=30))


sizes = st.builds(
    FatTree,
    containers=st.integers(1, 4),
    tors=st.integers(1, 4),
    aggs=st.integers(1, 3),
    cores=st.integers(1, 4),
    servers=st.integers(1, 40),
    dip_servers=st.just(1),
    smux_tors=st.lists(st.just(1), max_size=2).map(tuple),
    clients=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_every_tree_is_connected_and_no_address_is_given_twice(size: FatTree) -> None:
    graph = fattree(size)
    assert nx.is_connected(graph)
    macs = [port.mac for link in links(graph) for port in link.ends]
    assert len(set(macs)) == len(macs)
    once: list[object] = [port.address.ip for link in links(graph) for port in link.ends]
    once += [node.loopback for node in nodes(graph) if node.loopback]
    once += [node.management.ip for node in nodes(graph) if node.management]
    assert len(set(once)) == len(once)
    hosts = [node.prefix for node in nodes(graph, Kind.SERVER, Kind.CLIENT) if node.prefix]
    for first, second in combinations(sorted(hosts), 2):
        assert not first.overlaps(second), f"{first} and {second} overlap"


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_ports_count_from_one_and_hosts_lie_within_their_tor(size: FatTree) -> None:
    graph = fattree(size)
    by_name = {node.name: node for node in nodes(graph)}
    for node in nodes(graph):
        numbers = [link.port(node.name).number for link in links(graph, node.name)]
        assert numbers == list(range(1, graph.degree(node.name) + 1))
        if node.kind is Kind.SERVER:
            tor = by_name[links(graph, node.name)[0].peer(node.name).node]
            assert node.prefix is not None
            assert tor.prefix is not None
            assert node.prefix.subnet_of(tor.prefix)
            assert node.address in node.prefix
