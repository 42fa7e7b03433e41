"""What runs in each node, and the configuration it is given."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import networkx as nx
from pydantic import BaseModel

from controller import inventory
from controller.cluster.etcd_member import TRANSACTION, etcd_command
from controller.config import ClusterConfig, ControllerConfig, Listen
from duet_p4 import bmv2
from duet_p4.bird.config import render
from duet_p4.confinement import Rights
from duet_p4.flows.service import FlowConfig
from duet_p4.hmux.pipeline import CPU_PORT
from duet_p4.host_agent.config import HostConfig
from duet_p4.smux.config import SmuxConfig
from duet_p4.switch_agent.config import EchoConfig, P4Config, PortConfig, SwitchConfig
from duet_p4.switch_agent.hostif import CPU_ASIC
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import agents, rights
from mininet_topos.testbed.folder import ROOT_NODE, Folder
from mininet_topos.testbed.plan import Plan, Target
from mininet_topos.testbed.process_plan import File, ProcessPlan, StateFolder
from mininet_topos.testbed.routing import bird_of
from mininet_topos.testbed.supervisor import Process

CONTROLLER = "controller"
"""What controllers are called: this, and from the second on with a number."""

_ETCD_PORT, _ETCD_PEER_PORT = 2379, 2380

_ABOVE = {Kind.TOR: Kind.AGG, Kind.AGG: Kind.CORE}

_PACKET_LOG_BYTES = 4 << 20
"""How long BMv2's log of packets gets before a new one begins; the last one is kept as well."""
_WHOLE_FRAME = 16_384

_BMV2_ECHO = EchoConfig(interval_ms=500, hurry_ms=500)
"""BMv2 forwards in a process that may have to wait for its turn."""
_ECHOES_PER_S = 2000
"""How many echoes the switches of a testbed may send each other: they share a machine's CPUs."""

_HOLD_S = {True: 30.0, False: 1.0}
"""How long an SMux, or a switch that lost its tables, waits to be told what it should hold: by a controller
where there is one."""


def plan_processes(
    graph: nx.Graph,
    folder: Folder,
    plan: Plan,
    passwords: Mapping[frozenset[str], str],
    page: int | None = None,
) -> ProcessPlan:
    """Return every process of a testbed and what it finds; nothing is written yet.

    `passwords` are those of BGP sessions, by link (`routing.passwords`), `page` is the descriptor of the
    bound socket that the web page is served on, if it is.
    """
    return _Nodes(graph, folder, plan, passwords).plan_all(page)


def _page_process(folder: Folder, descriptor: int) -> Process:
    return Process(
        node=ROOT_NODE,
        name="web",
        rights=None,  # It opens an operator's shells and captures in nodes, which are root's.
        function="mininet_topos.testbed.web.__main__:main",
        arguments=(folder.name, str(descriptor)),
        keeps=descriptor,
        namespace=folder.root,
        log=folder.log(ROOT_NODE, "web"),
    )


def controller_names(count: int) -> list[str]:
    """Return the names of a testbed's controllers."""
    return [f"{CONTROLLER}{number if number > 1 else ''}" for number in range(1, count + 1)]


def _etcd_urls(controllers: int, port: int) -> dict[str, str]:
    """Return where the members of etcd answer, one beside each controller."""
    names = controller_names(controllers)
    return {
        name.replace(CONTROLLER, "etcd"): f"https://{address}:{port}"
        for name, address in zip(names, addresses.CONTROLLERS, strict=False)
    }


def _device_id(node: fattree.Node) -> int:
    return node.index + 1


def echo_of(graph: nx.Graph) -> EchoConfig:
    """Return how often switches ask each other whether they forward: many on one machine, more seldom."""
    usual = EchoConfig()
    switches = {node.name for node in fattree.nodes(graph, *SWITCHES)}
    ends = sum(2 for one, other in graph.edges if {one, other} <= switches)
    share = max(1.0, ends * 1000 / usual.interval_ms / _ECHOES_PER_S)
    rarer = {"interval_ms": round(share * usual.interval_ms), "hurry_ms": round(share * usual.hurry_ms)}
    return usual.model_copy(update=rarer)


def inventory_of(graph: nx.Graph) -> inventory.Inventory:
    """Return what the controller must know of a testbed."""
    by_name = {node.name: node for node in fattree.nodes(graph)}
    switches = [
        inventory.Switch(
            name=node.name,
            role=inventory.Role(node.kind.value),
            agent=agents.url(node),
            container=node.container,
            loopback=node.address,
            prefixes=_entering(graph, node),
        )
        for node in fattree.nodes(graph, *SWITCHES)
    ]
    return inventory.Inventory(
        switches=tuple(switches),
        smuxes=tuple(
            inventory.SMux(
                name=node.name,
                agent=agents.url(node),
                switch=next(iter(graph[node.name])),
                address=node.address,
            )
            for node in fattree.nodes(graph, Kind.SMUX)
        ),
        servers=tuple(
            inventory.Server(
                name=node.name,
                agent=agents.url(node),
                switch=next(iter(graph[node.name])),
                dips=tuple(node.prefix) if node.prefix else (),
            )
            for node in fattree.nodes(graph, Kind.SERVER)
            if node.is_dip
        ),
        links=tuple(
            inventory.Link(ends=(link.ends[0].node, link.ends[1].node), capacity_bps=link.capacity_bps)
            for link in fattree.links(graph)
            if all(by_name[port.node].is_switch for port in link.ends)
        ),
        vip_prefix=addresses.VIPS,
        tip_prefix=addresses.TIPS,
    )


def _entering(graph: nx.Graph, node: fattree.Node) -> tuple[IPv4Network, ...]:
    """Return the sources that enter the network at a switch: a ToR's hosts, or at a Core all outside."""
    if node.prefix is not None:
        return (node.prefix,)
    outside = any(graph.nodes[name]["node"].kind is Kind.CLIENT for name in graph[node.name])
    return (addresses.OUTSIDE,) if outside else ()


class _Nodes:
    """A plan in the making."""

    def __init__(
        self, graph: nx.Graph, folder: Folder, plan: Plan, passwords: Mapping[frozenset[str], str]
    ) -> None:
        self.graph = graph
        self._echo = echo_of(graph) if plan.target is Target.XDP else _BMV2_ECHO
        self.folder = folder
        self.plan = plan
        self.passwords = passwords
        self.by_name = {node.name: node for node in fattree.nodes(graph)}
        self._states: list[StateFolder] = []
        self._files: list[File] = []
        self._links: list[tuple[Path, Path]] = []
        self._given: list[tuple[Path, int]] = []

    def plan_all(self, page: int | None) -> ProcessPlan:
        """Return the plan."""
        found = list(self._processes())
        if page is not None:
            found.append(_page_process(self.folder, page))
        return ProcessPlan(
            processes=tuple(found),
            states=tuple(self._states),
            files=tuple(self._files),
            links=tuple(self._links),
            given=tuple(self._given),
        )

    def _processes(self) -> Iterator[Process]:
        for switch in fattree.nodes(self.graph, *SWITCHES):
            yield self._switch_process(switch)
        for switch in fattree.nodes(self.graph, *SWITCHES):
            config = self._switch(switch)
            may = rights.agent(config, speaks_bgp=True)
            yield self._configured(switch.name, "agent", "duet_p4.switch_agent.agent:main", config, may)
        for smux in fattree.nodes(self.graph, Kind.SMUX):
            smux_config = self._smux(smux)
            may = rights.agent(smux_config, speaks_bgp=True)
            yield self._configured(smux.name, "smux", "duet_p4.smux.agent:main", smux_config, may)
        for client in fattree.nodes(self.graph, Kind.CLIENT):
            if client.asn is not None:
                yield self._bird_process(client)
        for server in fattree.nodes(self.graph, Kind.SERVER):
            if server.is_dip:
                yield self._dip_server(server)
                host = self._host(server)
                may = rights.agent(host, speaks_bgp=False)
                yield self._configured(server.name, "host-agent", "duet_p4.host_agent.agent:main", host, may)

        if self.plan.controller:
            user = rights.controller(self.folder.path).user
            text = inventory_of(self.graph).model_dump_json(indent=2)
            self._files.append(File(self.folder.inventory, text, user))
            for number, name in enumerate(controller_names(self.plan.controllers)):
                if self.plan.controllers > 1:
                    yield self._etcd(number)
                controller = self._controller(number)
                may = rights.controller(self.folder.state(name))
                found = self._configured(ROOT_NODE, name, "controller.__main__:main", controller, may)
                yield self._beside(number, found)

    def _configured(self, node: str, name: str, function: str, config: BaseModel, may: Rights) -> Process:
        path = self.folder.config(node, name)
        self._files.append(File(path, config.model_dump_json(indent=2), may.user))
        return self._process(node, name, function, "--config", str(path), may=may)

    def _process(self, node: str, name: str, function: str | None, *arguments: str, may: Rights) -> Process:
        return Process(
            node=node,
            name=name,
            function=function,
            arguments=arguments,
            rights=may,
            namespace=self.folder.namespace(node),
            log=self.folder.log(node, name),
        )

    def _switch_process(self, node: fattree.Node) -> Process:
        """Return the P4 switch; both targets have simple_switch_grpc's command line."""
        own = [link.port(node.name) for link in fattree.links(self.graph, node.name)]
        ports = [*((port.number, port.name) for port in own), (CPU_PORT, CPU_ASIC)]
        interfaces = [word for number, name in ports for word in ("-i", f"{number}@{name}")]
        arguments = ["--no-p4", "--device-id", str(_device_id(node)), *interfaces]
        target = ["--", "--grpc-server-addr", self._p4runtime(node)]
        if self.plan.target is Target.XDP:
            level = ["--log-console", "-L", self.plan.log_level.lower().replace("warning", "warn")]
            level += ["--flow-sampling", str(self.plan.flow_sampling)]
            function = "duet_p4.xdp_switch.__main__:main"
            may = rights.xdp_switch(self.folder, node.name)
            return self._process(node.name, "switch", function, *arguments, *level, *target, may=may)
        program = [bmv2.COMMAND, *arguments, *self._bmv2_log(node)]
        if bmv2.has("--notifications-addr"):  # Else builds with nanomsg leave a socket in /tmp.
            program += ["--notifications-addr", f"ipc://{self.folder.state(node.name)}/bmv2.ipc"]
        may = rights.bmv2(self.folder, node.name)
        return self._process(node.name, "switch", None, *program, *target, may=may)

    def _bmv2_log(self, node: fattree.Node) -> list[str]:
        """Return what BMv2 is to say: it has many lines for every packet from level info on."""
        if not self._traced_bmv2():
            return ["--log-console", "-L", "warn"]
        return [
            *("--log-file", str(self._packet_log(node)), "--log-flush", "-L", "trace"),
            *("--log-file-max-size", str(_PACKET_LOG_BYTES), "--log-file-max-files", "1"),
            *("--dump-packet-data", str(_WHOLE_FRAME), "--nanolog", f"ipc://{self._packet_events(node)}"),
        ]

    def _traced_bmv2(self) -> bool:
        return self.plan.packet_log and self.plan.target is Target.BMV2 and bmv2.has("--nanolog")

    def _packet_log(self, node: fattree.Node) -> Path:
        return self.folder.state(node.name) / "packets"

    def _packet_events(self, node: fattree.Node) -> Path:
        return self.folder.state(node.name) / "packets.ipc"

    def _p4runtime(self, node: fattree.Node) -> str:
        return f"unix:{self.folder.p4runtime(node.name)}"

    def _switch(self, node: fattree.Node) -> SwitchConfig:
        ports = []
        for link in fattree.links(self.graph, node.name):
            own, theirs = link.port(node.name), link.peer(node.name)
            peer = self.by_name[theirs.node]
            ports.append(
                PortConfig(
                    number=own.number,
                    interface=own.name,
                    mac=own.mac,
                    address=own.address,
                    peer=theirs.address.ip,
                    mtu=own.mtu,
                    prefixes=(peer.prefix,) if peer.asn is None and peer.prefix else (),
                    outside=peer.kind is Kind.CLIENT and peer.asn is not None,
                    up=peer.kind is _ABOVE.get(node.kind),
                )
            )
        return SwitchConfig(
            **self._agent(node),
            address=node.address,
            ports=tuple(ports),
            bird=bird_of(self.graph, node, self.passwords),
            originated=(node.prefix,) if node.prefix else (),
            muxes=(addresses.VIPS, addresses.TIPS),
            space=addresses.OURS,
            flow_key=self.plan.flow_key,
            seed=zlib.crc32(node.name.encode()),
            fragment_mux=addresses.FRAGMENT_MUX,
            p4=P4Config(
                address=self._p4runtime(node),
                device_id=_device_id(node),
                target=self.plan.target.value,
                log=self._packet_log(node) if self._traced_bmv2() else None,
                events=self._packet_events(node) if self._traced_bmv2() else None,
            ),
            hold_s=_HOLD_S[self.plan.controller],
            report_urls=self._controller_urls(),
            flow_records=FlowConfig(sampling=self.plan.flow_sampling),
            echo=self._echo,
        )

    def _smux(self, node: fattree.Node) -> SmuxConfig:
        assert node.loopback is not None
        return SmuxConfig(
            **self._agent(node),
            address=node.loopback,
            uplinks=tuple(link.port(node.name).name for link in fattree.links(self.graph, node.name)),
            announced=(addresses.VIPS, addresses.TIPS),
            muxes=addresses.LOOPBACKS,
            flow_key=self.plan.flow_key,
            fragment_mux=addresses.FRAGMENT_MUX,
            report_urls=self._controller_urls(),
            bird=bird_of(self.graph, node, self.passwords),
            datapath=self.plan.smux_path.value,
            flow_records=FlowConfig(sampling=self.plan.flow_sampling),
            hold_s=_HOLD_S[self.plan.controller],
        )

    def _host(self, node: fattree.Node) -> HostConfig:
        return HostConfig(
            **self._agent(node),
            interfaces=tuple(link.port(node.name).name for link in fattree.links(self.graph, node.name)),
            # There are dozens of servers on the machine, and few clients.
            flows=16_384,
            muxes=addresses.LOOPBACKS,
            flow_key=self.plan.flow_key,
            flow_records=FlowConfig(sampling=self.plan.flow_sampling),
            snat_exclude=(addresses.SERVERS, addresses.LOOPBACKS, addresses.LINKS),
            report_urls=self._controller_urls(),
        )

    def _controller_urls(self) -> tuple[str, ...]:
        return tuple(
            f"https://{address}:{agents.PORT}" for address in addresses.CONTROLLERS[: self.plan.controllers]
        )

    def _controller(self, number: int) -> ControllerConfig:
        """Return the configuration of a controller: with a database, or one of several with an etcd."""
        name = controller_names(number + 1)[number]
        state = self.folder.state(name)
        user = rights.controller(state).user
        self._states.append(StateFolder(state, user))
        self._links.append((self.folder.controller_socket(name), state / "socket"))
        if user is not None:
            self._given.append((self.folder.identity(name), user))
        several = self.plan.controllers > 1
        endpoints = list(_etcd_urls(self.plan.controllers, _ETCD_PORT).values())
        own_first = (*endpoints[number:], *endpoints[:number])
        cluster = ClusterConfig(name=name, etcd=own_first, transaction=TRANSACTION) if several else None
        return ControllerConfig(
            database=None if several else state / "controller.db",
            cluster=cluster,
            inventory=self.folder.inventory,
            listen=Listen(host=addresses.CONTROLLERS[number], port=agents.PORT),
            socket=state / "socket",
            credentials=self.folder.identity(name),
            flow_key=self.plan.flow_key,
        )

    def _etcd(self, number: int) -> Process:
        """Return the member of etcd beside a controller; both are known by the same certificate."""
        peers = _etcd_urls(self.plan.controllers, _ETCD_PEER_PORT)
        name = list(peers)[number]
        state = self.folder.state(name)
        may = rights.controller(state)
        self._states.append(StateFolder(state, may.user))
        client = _etcd_urls(self.plan.controllers, _ETCD_PORT)[name]
        files = self.folder.identity(controller_names(number + 1)[number])
        command = etcd_command(name, state, client, peers, files)
        return self._beside(number, self._process(ROOT_NODE, name, None, *command, may=may))

    def _beside(self, number: int, process: Process) -> Process:
        """Return a process that is where a controller is: of several, each has a namespace."""
        if self.plan.controllers == 1:
            return process
        namespace = self.folder.namespace(controller_names(number + 1)[number])
        return process.model_copy(update={"namespace": namespace})

    def _agent(self, node: fattree.Node) -> dict[str, Any]:
        """Return what every agent's configuration has."""
        assert node.management is not None
        state = self.folder.state(node.name)
        self._states.append(StateFolder(state))
        return {
            "name": node.name,
            "state_dir": state,
            "pins": self.folder.pins(node.name),
            "listen": node.management.ip,
            "port": agents.PORT,
            "credentials": self.folder.identity(node.name),
            "log_level": self.plan.log_level,
        }

    def _bird_process(self, node: fattree.Node) -> Process:
        """Return the BIRD of a client that has several ways in: the border of the network outside."""
        state = self.folder.state(node.name)
        self._states.append(StateFolder(state))
        config = self.folder.configs / f"{node.name}.bird.conf"
        self._files.append(
            File(config, render(bird_of(self.graph, node, self.passwords), state / "bird.log"))
        )
        command = ["bird", "-f", "-c", str(config), "-s", str(state / "bird.ctl")]
        return self._process(node.name, "bird", None, *command, may=rights.bird(state))

    def _dip_server(self, node: fattree.Node) -> Process:
        assert node.prefix is not None
        ports = [word for port in self.plan.tcp_ports for word in ("--http", str(port))]
        ports += [word for port in self.plan.udp_ports for word in ("--udp", str(port))]
        dips = map(str, node.prefix)
        arguments = (*dips, "--name", node.name, *ports)
        may = rights.dip_server(self.folder.state(node.name))
        return self._process(node.name, "dip-server", "duet_p4.dip_server.server:main", *arguments, may=may)
