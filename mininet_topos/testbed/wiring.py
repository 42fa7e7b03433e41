"""Links and addresses of the namespaces, over netlink: a whole testbed is wired in well under a second.

Nodes with an IP stack of their own (hosts, SMuxes) get their addresses here; a switch's ports stay
bare, since its P4 program is all that sees their packets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import networkx as nx
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from duet_p4 import netdev
from duet_p4.bpf import Object, compile_object
from duet_p4.switch_agent.hostif import make_cpu_port
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.folder import Folder

BRIDGE = "mgmt"
MANAGEMENT_PORT = "mgmt"
"""The management interface of every node that has an agent; also the name of the bridge."""

_FIRST_INDEX = 10_000
_NOBODY = "02:d0:ff:ff:ff:ff"
"""The MAC address of no port of a testbed (`addresses.Mac`)."""

_PASS = Path(__file__).with_name("bpf") / "pass.c"

_SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/ignore_routes_with_linkdown": "1",
    "net/ipv4/conf/default/ignore_routes_with_linkdown": "1",
    "net/ipv4/fib_multipath_hash_policy": "1",
    "net/ipv4/ip_local_port_range": "10240 65535",
    "net/ipv4/tcp_child_ehash_entries": "4096",
    "net/ipv4/tcp_max_syn_backlog": "2048",
    "net/ipv4/tcp_max_tw_buckets": "131072",
}
"""Namespaces that are made from the root one have a table of TCP connections of their own.

Else they share the machine's, and whoever lists connections goes through its 262,144 places. The two settings
after it would follow from its size.
"""


def prepare_root(path: Path, controllers: int) -> None:
    """Make the root namespace usable: loopback, and the management network's bridge, with its address.

    That is the controller's, where there are not several.
    """
    own = addresses.managers(controllers)[0]
    with namespaces.entered(path):
        _sysctls({})
        with IPRoute() as netlink:
            _up(netlink, "lo")
            netlink.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_forward_delay=0)
            _address(netlink, BRIDGE, IPv4Interface((own, addresses.MANAGEMENT.prefixlen)))
            _up(netlink, BRIDGE)


def build(folder: Folder, graph: nx.Graph, controllers: int = 1) -> None:
    """Make the namespace of every node and every link; the root namespace is prepared."""
    root, nodes = folder.root, fattree.nodes(graph)
    managers = addresses.managers(controllers)
    with namespaces.entered(root):
        for node in nodes:
            namespaces.create(folder.namespace(node.name))
    for link in fattree.links(graph):
        one, other = link.ends
        connect(root, folder.namespace(one.node), folder.namespace(other.node), link)
    for node in nodes:
        attach_management(root, folder.namespace(node.name), node)
        configure(folder.namespace(node.name), node, fattree.links(graph, node.name), managers)
    know_management(root, [node.management.ip for node in nodes if node.management])


def add_controller(root: Path, path: Path, address: IPv4Address, neighbors: Iterable[IPv4Address]) -> None:
    """Make the namespace of one of several controllers, on the management network with its neighbours."""
    with namespaces.entered(root):
        namespaces.create(path)
    _attach(root, path, f"c{int(address) - int(addresses.MANAGEMENT[0])}")
    with namespaces.entered(path), IPRoute() as netlink:
        _sysctls({})
        _up(netlink, "lo")
        _address(netlink, MANAGEMENT_PORT, IPv4Interface((address, addresses.MANAGEMENT.prefixlen)))
        _up(netlink, MANAGEMENT_PORT)
        for neighbor in neighbors:
            netdev.know_neighbor(netlink, MANAGEMENT_PORT, neighbor)
    know_management(root, [address])


def part(path: Path, others: Iterable[IPv4Address]) -> None:
    """Have nothing that a namespace sends on the management network get to some others, until they `meet`.

    No error tells of it, either side: what is sent goes to a station that there is not.
    """
    with namespaces.entered(path), IPRoute() as netlink:
        port = netdev.index(MANAGEMENT_PORT)
        for address in others:
            netlink.neigh("replace", dst=str(address), lladdr=_NOBODY, ifindex=port, state=NUD_PERMANENT)


def meet(path: Path, others: Iterable[IPv4Address]) -> None:
    """End what `part` began."""
    with namespaces.entered(path), IPRoute() as netlink:
        port = netdev.index(MANAGEMENT_PORT)
        for address in others:
            netlink.neigh("delete", dst=str(address), ifindex=port)
            netdev.know_neighbor(netlink, MANAGEMENT_PORT, address)


def connect(root: Path, first: Path, second: Path, link: fattree.Link) -> None:
    """Lay a veth pair between two namespaces: its ends named, addressed and sized as the link says."""
    one, other = link.ends
    with (
        _descriptor(first) as near,
        _descriptor(second) as far,
        namespaces.entered(root),
        IPRoute() as netlink,
    ):
        netlink.link(
            "add",
            ifname=one.name,
            # Unlike its peer's, which starts from the bottom: the kernel reports a veth's loss of carrier
            # at once only where the two differ, else up to a second later.
            index=_FIRST_INDEX + one.number,
            kind="veth",
            net_ns_fd=near,
            address=one.mac,
            mtu=one.mtu,
            peer={"ifname": other.name, "net_ns_fd": far, "address": other.mac, "mtu": other.mtu},
        )


def attach_management(root: Path, path: Path, node: fattree.Node) -> None:
    """Connect a node to the management bridge."""
    if node.management is not None:
        _attach(root, path, management_end(node))


def _attach(root: Path, path: Path, end: str) -> None:
    with _descriptor(path) as far, namespaces.entered(root), IPRoute() as netlink:
        peer = {"ifname": MANAGEMENT_PORT, "net_ns_fd": far}
        bridge = netlink.link_lookup(ifname=BRIDGE)[0]
        netlink.link("add", ifname=end, kind="veth", peer=peer)
        netlink.link("set", index=netlink.link_lookup(ifname=end)[0], master=bridge, state="up")


def know_management(root: Path, nodes: Iterable[IPv4Address]) -> None:
    """Have the management bridge, which has carrier, know its nodes; without, the kernel forgets them."""
    with namespaces.entered(root), IPRoute() as netlink:
        for address in nodes:
            netdev.know_neighbor(netlink, BRIDGE, address)


def management_end(node: fattree.Node) -> str:
    """Return the bridge's end of a node's management link."""
    return f"m{node.index}"


def configure(
    path: Path, node: fattree.Node, links: Sequence[fattree.Link], managers: Iterable[IPv4Address]
) -> None:
    """Bring up a node's interfaces; give those of hosts and SMuxes their addresses and routes."""
    with namespaces.entered(path), IPRoute() as netlink:
        _sysctls({"net/ipv4/ip_forward": "1"} if node.kind is Kind.SMUX else {})
        _up(netlink, "lo")
        if node.management is not None:
            _address(netlink, MANAGEMENT_PORT, node.management)
            _up(netlink, MANAGEMENT_PORT)
            for address in managers:
                netdev.know_neighbor(netlink, MANAGEMENT_PORT, address)
        if node.is_switch:
            make_cpu_port(netlink)
        for link in links:
            port = link.port(node.name)
            if not node.is_switch:
                _address(netlink, port.name, port.address)
            _up(netlink, port.name)
            if not node.is_switch:
                _offloads(port.name)
                netdev.know_neighbor(netlink, port.name, link.peer(node.name).address.ip)
        if node.kind in (Kind.SERVER, Kind.CLIENT):
            _host(netlink, node, links[0].peer(node.name).address.ip)


def set_ports(path: Path, names: Sequence[str], *, up: bool) -> None:
    """Bring interfaces of a namespace up or down, one right after the other; their peers see the carrier."""
    with namespaces.entered(path):
        for name in names:
            netdev.set_up(name, up=up)


def enable_napi(ports: Mapping[Path, Sequence[str]]) -> None:
    """Let XDP redirect into the peers of these interfaces, which no XDP switch drives.

    GRO would do too, but hand a switch packets that are larger than any link.
    """
    with Object(compile_object(_PASS)) as passing:
        passing.load()
        for path, names in ports.items():
            with namespaces.entered(path), IPRoute() as netlink:
                for name in names:
                    index = socket.if_nametoindex(name)
                    netlink.link("set", index=index, xdp_fd=passing.program("pass").fd)


def _host(netlink: IPRoute, node: fattree.Node, gateway: IPv4Address) -> None:
    """Give a host its whole block, and a default route unless it learns its routes by BGP."""
    assert node.prefix is not None
    loopback = netlink.link_lookup(ifname="lo")[0]
    netlink.addr("add", index=loopback, address=str(node.address), prefixlen=32)
    # Every address of the block is the host's own: a DIP can be added without touching the host.
    netlink.route("add", type="local", table=255, dst=str(node.prefix), oif=loopback, scope=254)
    if node.asn is None:
        # The interface takes encapsulated packets too; what the host itself sends must fit without them.
        netlink.route(
            "add",
            dst="default",
            gateway=str(gateway),
            prefsrc=str(node.address),
            metrics={"mtu": fattree.HOST_MTU},
        )


def _address(netlink: IPRoute, interface: str, address: IPv4Interface) -> None:
    index = netlink.link_lookup(ifname=interface)[0]
    netlink.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


def _up(netlink: IPRoute, interface: str) -> None:
    netlink.link("set", index=netlink.link_lookup(ifname=interface)[0], state="up")


def _offloads(interface: str) -> None:
    """Have the host fill in checksums and segment itself, and turn NAPI on.

    XDP can redirect into a veth only if its peer has NAPI, which GRO turns on where the interface is up.
    """
    netdev.set_transmit_offloads(interface, on=False)
    netdev.set_gro(interface, on=True)


def _sysctls(more: dict[str, str]) -> None:
    for key, value in (_SYSCTLS | more).items():
        path = Path("/proc/sys") / key
        if path.exists():  # IPv6 may be compiled out or off.
            path.write_text(value)


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
