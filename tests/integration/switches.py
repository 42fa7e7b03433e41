"""A few switches in namespaces, each with P4 switch, agent and BIRD, for tests of the agent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import cast

from finsy.proto import p4r
from pyroute2 import IPRoute

from duet_p4 import bmv2, netdev, telemetry
from duet_p4.api.service import State
from duet_p4.bird.config import Bfd, BirdConfig, Neighbor, Timers
from duet_p4.bird.policy import PrefixRange
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.pipeline import CPU_PORT
from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.rows import HostRow, Row
from duet_p4.model import Protocol
from duet_p4.rest.client import MuxClient, RestError
from duet_p4.switch_agent.config import P4Config, PortConfig, SwitchConfig
from duet_p4.switch_agent.hostif import CPU_ASIC, make_cpu_port
from duet_p4.switch_agent.p4client import Switch
from tests.integration.netns import inside, ip, namespaces
from tests.unit.test_telemetry import recorded

SPACE = tuple(
    PrefixRange(network=IPv4Network(network), shortest=shortest, longest=longest)
    for network, shortest, longest in (
        ("10.0.0.0/16", 16, 32),
        ("100.0.0.0/8", 24, 24),
        ("172.30.0.0/16", 32, 32),
    )
)
TARGET = os.environ.get("DUET_TARGET", "xdp")
SWITCHES = {"xdp": [sys.executable, "-m", "duet_p4.xdp_switch"], "bmv2": [bmv2.COMMAND]}
HOST_MTU, FABRIC_MTU = 1500, 1600


def missing() -> str | None:
    """Say what these tests need and this machine has not."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin"):
        return "bird is not installed"
    if TARGET == "bmv2" and not bmv2.is_installed():
        return bmv2.MISSING
    return None


@dataclass
class Node:
    """A switch (with an AS) or a host (without)."""

    name: str
    namespace: str
    number: int
    asn: int | None
    directory: Path
    ports: list[PortConfig] = field(default_factory=list)
    neighbors: list[Neighbor] = field(default_factory=list)
    originated: tuple[IPv4Network, ...] = ()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def loopback(self) -> IPv4Address:
        return IPv4Address(f"172.30.0.{self.number}")

    @property
    def management(self) -> IPv4Address:
        return IPv4Address(f"198.18.0.{2 * self.number + 1}")

    @property
    def url(self) -> str:
        return f"http://{self.management}:8443"

    def config(self) -> SwitchConfig:
        assert self.asn is not None
        return SwitchConfig(
            name=self.name,
            address=self.loopback,
            ports=tuple(self.ports),
            bird=BirdConfig(
                router_id=self.loopback,
                asn=self.asn,
                neighbors=tuple(self.neighbors),
                space=SPACE,
                # Patient: an agent that is started again by these tests first imports all it needs.
                bfd=Bfd(multiplier=20),
                timers=Timers(hold=30, keepalive=10),
            ),
            originated=self.originated,
            seed=self.number * 0x9E3779B9 & 0xFFFFFFFF,
            insecure=True,
            p4=P4Config(address="127.0.0.1:9559", target=TARGET, insecure=True),
            hold_s=600.0,
            state_dir=self.directory,
            listen=self.management,
            log_level=os.environ.get("DUET_LOG", "INFO"),
        )

    def start(self, name: str, *command: str) -> None:
        """Start a process in the node's namespace; its log is `<name>.log`."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_switch(self) -> None:
        names = {port.number: port.interface for port in self.ports} | {CPU_PORT: CPU_ASIC}
        ports = [word for number, name in names.items() for word in ("-i", f"{number}@{name}")]
        options = ["--device-id", "0", *ports, "--log-level", "warn", "--no-p4"]
        if TARGET == "bmv2":
            options.insert(0, "--log-console")
        server = ["--grpc-server-addr", "127.0.0.1:9559"]
        self.start("switch", *SWITCHES[TARGET], *options, "--", *server)

    def start_agent(self) -> None:
        path = self.directory / "agent.json"
        path.write_text(self.config().model_dump_json(indent=2))
        self.start("agent", sys.executable, "-m", "duet_p4.switch_agent", "--config", str(path))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(timeout=10)

    async def rows(self) -> list[Row]:
        """Read what the switch holds, past the agent."""
        with inside(self.namespace):
            reader = Switch("127.0.0.1:9559", 0)
            async with reader.channel():
                rows, _ = await reader.read_rows()
                return rows

    async def tamper(self, delete: list[Row], stray: IPv4Address) -> None:
        """Delete rows behind the agent's back, and add a VIP that nobody asked for."""
        with inside(self.namespace):
            switch = Switch("127.0.0.1:9559", 0)
            async with switch.session():
                wrong = [Update(Op.DELETE, row, row) for row in delete]
                plan = Plan.of(("", wrong), ("", [Update(Op.INSERT, HostRow(stray, 8, 8))]))
                with recorded() as found, telemetry.span("tamper", root=True):
                    await switch.write_plan(plan)
                writes = [
                    dict(span.attributes or {}) for span in found.spans if span.name == "P4Runtime Write"
                ]
                assert sum(cast(int, w["p4runtime.updates"]) for w in writes) == len(delete) + 1

    async def foreign(self) -> list[p4r.TableEntry]:
        """Read what the switch holds that is no row of an agent's."""
        with inside(self.namespace):
            reader = Switch("127.0.0.1:9559", 0)
            async with reader.channel():
                return (await reader.read_rows())[1]

    async def usurp(self, stray: IPv4Address, seconds: float) -> None:
        """Be the switch's primary client for a while, add a VIP, and an ACL entry for SCTP."""
        with inside(self.namespace):
            switch = Switch("127.0.0.1:9559", 0)
            async with switch.session():
                await switch.write_plan(Plan.of(("", [Update(Op.INSERT, HostRow(stray, 8, 8))])))
                entry = entries.port_group(stray, Protocol.TCP, 80, 8, 8).encode(pipeline.schema())
                for field in entry.table_entry.match:
                    if field.exact.value == bytes([Protocol.TCP.number]):
                        field.exact.value = bytes([132])
                await switch.send([p4r.Update(type=p4r.Update.INSERT, entity=entry)])
                assert await self.foreign(), "no agent writes such an entry"
                await asyncio.sleep(seconds)


@dataclass
class Fabric:
    """Nodes, and clients of the agents of those that are switches."""

    nodes: dict[str, Node]
    agents: dict[str, MuxClient] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def logs(self) -> str:
        """Return the end of every log."""
        texts = []
        for path in sorted(path for node in self.nodes.values() for path in node.directory.glob("*.log")):
            texts.append(f"--- {path.parent.name}/{path.name}\n" + path.read_text(errors="replace")[-1500:])
        return "\n".join(texts)

    async def ready(self, *names: str, timeout_s: float = 90.0) -> None:
        """Wait until agents are ready."""
        for name in names:

            async def is_ready(agent: MuxClient = self.agents[name]) -> bool:
                try:
                    return (await agent.health()).state is State.READY
                except RestError:
                    return False

            await self.until(is_ready, f"{name} ready", timeout_s)

    async def established(self, *names: str, timeout_s: float = 60.0) -> None:
        """Wait until every BGP session of these switches is up."""
        for name in names:

            async def are_up(agent: MuxClient = self.agents[name]) -> bool:
                sessions = (await agent.status()).sessions
                return bool(sessions) and all(session.established for session in sessions)

            await self.until(are_up, f"BGP sessions of {name}", timeout_s)

    async def until(self, check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 10.0) -> float:
        """Wait for something to come true; return the seconds it took."""
        started = time.monotonic()
        while not await check():
            assert time.monotonic() - started < timeout_s, f"{what}: not in {timeout_s} s\n{self.logs()}"
            await asyncio.sleep(0.005)
        return time.monotonic() - started


@contextmanager
def fabric(
    tmp_path: Path, switches: dict[str, int], hosts: tuple[str, ...], links: list[tuple[str, str]]
) -> Iterator[Fabric]:
    """Lay out switches (name: AS), hosts and links between them; nothing runs yet.

    Meanwhile the calling thread is in a namespace of its own that reaches every agent.
    """
    names = [*switches, *hosts]
    with namespaces("m", *(f"n{i}" for i in range(len(names)))) as (root, *spaces):
        nodes = {}
        for number, (name, space) in enumerate(zip(names, spaces, strict=True), start=1):
            directory = tmp_path / name
            directory.mkdir()
            nodes[name] = Node(name, space, number, switches.get(name), directory)
            ip(f"link add m{number} netns {root} type veth peer name mgmt netns {space}")
            ip(f"addr add 198.18.0.{2 * number}/31 dev m{number}", root)
            ip(f"addr add {nodes[name].management}/31 dev mgmt", space)
            ip(f"link set m{number} up", root)
            ip("link set mgmt up", space)
            for where, end, address in ((root, f"m{number}", 2 * number + 1), (space, "mgmt", 2 * number)):
                with inside(where), IPRoute() as netlink:
                    netdev.know_neighbor(netlink, end, IPv4Address(f"198.18.0.{address}"))
            if name in switches:
                with inside(space), IPRoute() as netlink:
                    make_cpu_port(netlink)
        for index, (a, b) in enumerate(links):
            _connect(nodes[a], nodes[b], index)
        with inside(root):
            yield Fabric(nodes)


@asynccontextmanager
async def running(one: Fabric) -> AsyncIterator[Fabric]:
    """Run P4 switches and agents until every agent is ready and every BGP session is up."""
    switches = [node for node in one.nodes.values() if node.asn is not None]
    try:
        for node in switches:
            node.start_switch()
        for node in switches:
            node.start_agent()
            one.agents[node.name] = MuxClient(node.url)
        await one.ready(*one.agents)
        await one.established(*one.agents)
        yield one
    finally:
        for agent in one.agents.values():
            await agent.close()
        for node in switches:
            for name in ("agent", "switch"):
                if name in node.processes:
                    node.kill(name, signal.SIGTERM)


def _connect(a: Node, b: Node, index: int) -> None:
    """Lay a link: a /31 each, an end per node; a host gets its block and a default route."""
    is_fabric = a.asn is not None and b.asn is not None
    mtu = FABRIC_MTU if is_fabric else HOST_MTU
    ends = []
    for side, node in enumerate((a, b)):
        mac = f"02:00:00:00:{index:02x}:{side:02x}"
        address = IPv4Interface(f"172.31.{index}.{side}/31")
        peer = IPv4Address(f"172.31.{index}.{1 - side}")
        number = len(node.ports) + 1
        ends.append(
            PortConfig(number=number, interface=f"eth{number}", mac=mac, address=address, peer=peer, mtu=mtu)
        )
    for node, end, other in ((a, ends[0], b), (b, ends[1], a)):
        if node.asn is not None and other.asn is None:
            end = end.model_copy(update={"prefixes": (host_block(other),)})
            node.originated = (IPv4Network(f"100.1.{node.number}.0/24"),)
            other.originated = (host_block(other),)
        node.ports.append(end)
    # The kernel reports a veth's loss of carrier at once only if its two ends have different indices.
    ip(
        f"link add {ends[0].interface} index {100 + index} mtu {mtu} address {ends[0].mac} "
        f"netns {a.namespace} "
        f"type veth peer name {ends[1].interface} mtu {mtu} address {ends[1].mac} netns {b.namespace}"
    )
    for node, end, other in ((a, ends[0], b), (b, ends[1], a)):
        ip(f"link set {end.interface} up", node.namespace)
        if node.asn is None:
            tune_host(node, end, other)
        elif other.asn is not None:
            node.neighbors.append(
                Neighbor(
                    name=other.name,
                    interface=end.interface,
                    local=end.address.ip,
                    address=end.peer,
                    asn=other.asn,
                    bfd=False,
                )
            )


def host_block(host: Node) -> IPv4Network:
    """Return the addresses of the host `h<n>`, which is attached to the switch number n."""
    return IPv4Network(f"100.1.{host.name[1:]}.16/28")


def tune_host(node: Node, end: PortConfig, switch: Node) -> None:
    """Give a host its address, its route, and checksums that are filled in before they leave."""
    address = host_block(node)[1]
    ip(f"addr add {end.address} dev {end.interface}", node.namespace)
    ip(f"addr add {address}/32 dev lo", node.namespace)
    ip(f"route add default via {end.peer} src {address}", node.namespace)
    with inside(node.namespace), IPRoute() as netlink:
        netdev.know_neighbor(netlink, end.interface, end.peer)
    command = ["ip", "netns", "exec", node.namespace, "ethtool", "-K", end.interface]
    subprocess.run(
        [*command, "tx", "off", "tso", "off", "gso", "off", "gro", "on"], check=True, capture_output=True
    )
