"""A client, an SMux and two servers around a kernel router that stands in for their ToR, in namespaces.

          client -- tor -- smux
                   /   \\
            server1     server2
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import count

from duet_p4 import netdev
from duet_p4.api.host import HostDip, HostGroup, HostVip, Share, Snat
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.model import Dip, Group, MuxVip
from duet_p4.smux.datapath import Sizes
from duet_p4.smux.xdp import XdpDatapath
from tests.integration.netns import inside, ip, link, namespaces

VIPS = IPv4Network("10.0.0.0/16")
TIPS = IPv4Network("20.0.0.0/24")
MUX = IPv4Address("172.30.0.100")
CLIENT = IPv4Address("192.0.2.10")
REMOTE = IPv4Address("192.0.2.11")
DIPS = {
    "server1": tuple(IPv4Address(f"100.1.1.{n}") for n in (1, 2, 3)),
    "server2": tuple(IPv4Address(f"100.1.2.{n}") for n in (1, 2, 3)),
}
HTTP, ECHO = 80, 7
UPLINK = "eth1"
FABRIC_MTU, HOST_MTU = 1600, 1500
_numbers = count(1)


@dataclass
class Balanced:
    """The namespaces' names, and the data paths in them."""

    client: str
    tor: str
    smux: str
    servers: dict[str, str]
    mux: XdpDatapath
    hosts: dict[str, HostDatapath]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def put_vip(
        self, vip: str, dips: Sequence[IPv4Address], *, snat: Snat | None = None, group: Group | None = None
    ) -> MuxVip:
        """Have the SMux balance a VIP over DIPs, and the servers that have them serve it."""
        held = MuxVip(address=vip, group=group or Group.of(tuple(Dip(address=address) for address in dips)))
        self.mux.put_vip(held)
        for name, host in self.hosts.items():
            local = tuple(HostDip(address=dip) for dip in dips if dip in DIPS[name])
            if local:
                here = [dip.address for dip in local]
                groups = (HostGroup(share=Share.of(held.group, here)),) if snat and held.group else ()
                host.put_vip(HostVip(address=vip, dips=local, groups=groups, snat=snat))
        return held


def run(namespace: str, *command: str) -> str:
    """Run a command in a namespace and return what it prints."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} in {namespace}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def balanced(sizes: Sizes | None = None, snat_exclude: Sequence[IPv4Network] = ()) -> Iterator[Balanced]:
    """Yield the topology with empty data paths and the DIPs' servers running."""
    number = next(_numbers)
    roles = [f"n{number}{role}" for role in ("c", "t", "m", "s1", "s2")]
    with namespaces(*roles) as (client, tor, smux, one, two), ExitStack() as stack:
        servers = {"server1": one, "server2": two}
        # Replies come from where no route to the VIP leads: a router does not mind.
        run(tor, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        run(tor, "sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0")
        _leaf(tor, client, "tc", "192.0.2.1", (CLIENT, REMOTE), HOST_MTU)
        _leaf(tor, smux, "tm", "172.31.0.1", (MUX,), FABRIC_MTU)
        for number, (name, namespace) in enumerate(servers.items(), start=1):
            _leaf(tor, namespace, f"ts{number}", f"172.31.1.{number}", DIPS[name], FABRIC_MTU)
        for prefix in (VIPS, TIPS):
            ip(f"route add {prefix} via {MUX} dev tm onlink", tor)

        with inside(smux):
            mux = XdpDatapath(MUX, (VIPS, TIPS), uplink_mtu=FABRIC_MTU, sizes=sizes)
            stack.callback(mux.close)
            mux.attach([netdev.index(UPLINK)])
        hosts = {}
        for name, namespace in servers.items():
            with inside(namespace):
                hosts[name] = HostDatapath(snat_exclude=snat_exclude)
                stack.callback(hosts[name].close)
                netdev.set_ipv4_option(UPLINK, "rp_filter", 2)
                hosts[name].attach([netdev.index(UPLINK)])
        network = Balanced(client, tor, smux, servers, mux, hosts)
        for name, namespace in servers.items():
            network.processes.append(_serve(name, namespace))
            stack.callback(_end, network.processes[-1])
        yield network


def _leaf(tor: str, node: str, port: str, gateway: str, addresses: Sequence[IPv4Address], mtu: int) -> None:
    """Attach a node as a testbed does: its addresses on lo, one uplink, no offloads, GRO for NAPI."""
    link(tor, port, node, UPLINK)
    ip(f"link set {port} mtu {mtu}", tor)
    ip(f"link set {UPLINK} mtu {mtu}", node)
    ip(f"addr add {gateway}/32 dev {port}", tor)
    for number, address in enumerate(addresses):
        ip(f"addr add {address}/32 dev {UPLINK if number == 0 else 'lo'}", node)
        via = f"via {addresses[0]} onlink " if number else ""
        ip(f"route add {address} {via}dev {port}", tor)
    ip(f"route add default via {gateway} dev {UPLINK} onlink src {addresses[0]} mtu {HOST_MTU}", node)
    for namespace, name in ((tor, port), (node, UPLINK)):
        run(
            namespace,
            "ethtool",
            "-K",
            name,
            "tx",
            "off",
            "sg",
            "off",
            "tso",
            "off",
            "gso",
            "off",
            "gro",
            "on",
        )


def _serve(name: str, namespace: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", namespace, sys.executable, "-m", "duet_p4.dip_server"),
            *(str(dip) for dip in DIPS[name]),
            *("--name", name, "--ready"),
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == b"ready\n", f"the server of {name} did not start: {line!r}"
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
