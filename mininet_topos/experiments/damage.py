"""Every kind of failure that the experiments know: what is done to a testbed, and how it is undone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from duet_p4.bpf import Object, compile_object
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.setting import Running
from mininet_topos.testbed import capture, namespaces, wiring
from mininet_topos.testbed.protocol import Request, ask
from mininet_topos.testbed.supervisor import ProcessStatus

_DROP = Path(capture.__file__).with_name("bpf") / "drop.c"

Inflict = Callable[[Running, str], AbstractContextManager[float]]
"""Does the damage to a node or link, yields when (realtime clock, seconds), and undoes it."""


@contextmanager
def _fail(testbed: Running, what: str) -> Iterator[float]:
    failed_at = testbed.fail(what)
    try:
        yield failed_at
    finally:
        testbed.restore(what)


@contextmanager
def _kill_agent(testbed: Running, what: str) -> Iterator[float]:
    (agent,) = [
        process for process in _processes(testbed) if (process.node, process.name) == (what, "host-agent")
    ]
    assert agent.pid is not None
    killed_at = time.time()
    os.kill(agent.pid, signal.SIGKILL)
    yield killed_at


@contextmanager
def _kill_bird(testbed: Running, what: str) -> Iterator[float]:
    (bird,) = [
        pid
        for pid in namespaces.processes([testbed.folder.namespace(what)])
        if Path(f"/proc/{pid}/comm").read_text().strip() == "bird"
    ]
    killed_at = time.time()
    os.kill(bird, signal.SIGKILL)
    yield killed_at


@contextmanager
def _hang(testbed: Running, what: str) -> Iterator[float]:
    """Have a switch neither forward nor say anything while its ports stay up."""
    namespace = testbed.folder.namespace(what)
    ports = [capture.End(namespace, link.port(what).name) for link in fattree.links(testbed.graph, what)]
    with deaf(ports) as hung_at:
        namespaces.halt([namespace])
        try:
            yield hung_at
        finally:
            namespaces.resume([namespace])


@contextmanager
def deaf(ports: Iterable[capture.End]) -> Iterator[float]:
    """Have ports with an XDP program take every packet and do nothing with it; gives when that began."""
    with ExitStack() as stack:
        links = []
        for port in ports:
            found = capture.attached(port)
            stack.callback(os.close, found[1].fd)
            stack.callback(found[0].close)  # Else the port keeps its program when its switch dies.
            links.append(found)
        drop = stack.enter_context(Object(compile_object(_DROP)).load()).program("drop")
        deaf_at = time.time()
        for link, own in links:
            stack.callback(link.update, own)
            link.update(drop)
        yield deaf_at


@contextmanager
def _cut_management(testbed: Running, what: str) -> Iterator[float]:
    """Have no agent hear from the controller, nor the other way round."""
    nodes = [node for node in fattree.nodes(testbed.graph) if node.management is not None]
    ends = [wiring.management_end(node) for node in nodes]
    cut_at = time.time()
    wiring.set_ports(testbed.folder.root, ends, up=False)
    try:
        yield cut_at
    finally:
        wiring.set_ports(testbed.folder.root, ends, up=True)


@dataclass(frozen=True)
class Damage:
    """A kind of failure: what it is done to, in words what is done, and how."""

    what: str
    means: str
    inflict: Inflict
    behind: tuple[str, ...] = ()
    """The nodes whose servers lose their DIPs by it."""


DAMAGES = {
    "tor": Damage(
        "tor1",
        "a ToR with 15 servers and an SMux behind it is halted, BIRD too; its ports lose their carrier",
        _fail,
        ("tor1",),
    ),
    "agg": Damage("agg2", "an Agg is halted, BIRD too; its ports lose their carrier", _fail),
    "core": Damage("core2", "a Core is halted, BIRD too; its ports lose their carrier", _fail),
    "smux": Damage("smux2", "an SMux is halted, BIRD too; its port loses its carrier", _fail),
    "link": Damage("tor2-agg2", "a link between a ToR and an Agg loses its carrier", _fail),
    "server": Damage(
        "server1", "a server with DIPs is halted; its port loses its carrier", _fail, ("server1",)
    ),
    "server-link": Damage(
        "tor1-server1", "a server's cable is cut; everything on it goes on", _fail, ("server1",)
    ),
    "host-agent": Damage("server1", "a server's host agent is killed (kill -9)", _kill_agent),
    "bird": Damage(
        "tor1", "the BIRD of a ToR with DIPs and an SMux behind it is killed (kill -9)", _kill_bird
    ),
    "silent-switch": Damage("agg2", "an Agg forwards nothing and says nothing; its ports stay up", _hang),
    "management": Damage(
        "", "the management network loses every agent for as long as is measured", _cut_management
    ),
}
"""By the names of their results' keys."""


def inflicted(testbed: Running, kind: str) -> AbstractContextManager[float]:
    """Do damage of a kind; gives when (realtime clock, seconds). The end of the block undoes it."""
    damage = DAMAGES[kind]
    return damage.inflict(testbed, damage.what)


def lost_dips(testbed: Running, kind: str) -> frozenset[IPv4Address]:
    """Return the DIPs of the testbed's VIPs that a kind of failure cuts off."""
    behind = DAMAGES[kind].behind
    servers = [
        node
        for node in fattree.nodes(testbed.graph, Kind.SERVER)
        if node.name in behind or any(testbed.graph.has_edge(node.name, switch) for switch in behind)
    ]
    dips = {dip.address for entry in testbed.stated for dip in entry.vip.all_dips()}
    return frozenset(dip for dip in dips if any(s.prefix and dip in s.prefix for s in servers))


def _processes(testbed: Running) -> tuple[ProcessStatus, ...]:
    return ask(testbed.folder, Request(do="status")).processes
