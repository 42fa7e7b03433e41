"""What an attack is, and what it stands on: a running testbed, seen from the attacker's node."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Protocol, TypeVar

import networkx as nx
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from controller.records import VipRecord
from duet_p4.identity import Credentials
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import holdings, namespaces, probe
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder

Result = TypeVar("Result")

_ANSWER_S = 3.0
_ETH_P_ALL = 3


@dataclass(frozen=True)
class Outcome:
    """How an attack ended: whether it worked, and what was seen of what stopped it, or of what did not."""

    succeeded: bool
    seen: str


class Job(Protocol):
    """What an attack does."""

    def __call__(self, ground: Ground) -> Outcome:
        """Try it."""


@dataclass(frozen=True)
class Attack:
    """One attack: what is tried, by whom, and what should stop it. A small run leaves `slow` ones out."""

    name: str
    tried: str
    defence: str
    run: Job
    slow: bool = False


@dataclass
class Book:
    """Collects attacks as modules define them."""

    attacks: list[Attack] = field(default_factory=list)

    def add(self, name: str, tried: str, defence: str, *, slow: bool = False) -> Callable[[Job], Job]:
        """Return what enters a function under a name."""

        def enter(job: Job) -> Job:
            self.attacks.append(Attack(name, tried, defence, job, slow))
            return job

        return enter


class Sniffer:
    """Sees what the stack of a node gets by an interface: after XDP, so not what that has dropped."""

    def __init__(self, interface: str) -> None:
        """Begin; the calling thread is in the node's namespace."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self.frames = 0

    def saw(self, marker: bytes) -> bool:
        """Whether a frame with these bytes has come since the last question, looking at all of them."""
        found = False
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            self.frames += 1
            found = found or (kind != socket.PACKET_OUTGOING and marker in frame)

    def close(self) -> None:
        """End."""
        self._socket.close()


class _Operator:
    """Asks agents for as long as it lives, over connections that stay open."""

    def __init__(self, folder: Folder, graph: nx.Graph) -> None:
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Agents]] = Future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(folder, graph)), daemon=True)
        self._thread.start()
        self._loop, self._agents = self._ready.result()

    async def _live(self, folder: Folder, graph: nx.Graph) -> None:
        try:
            async with agents_module.connect(folder, graph) as agents:
                self._ready.set_result((asyncio.get_running_loop(), agents))
                await self._ended.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    def ask(self, job: Callable[[Agents], Coroutine[Any, Any, Result]]) -> Result:
        return asyncio.run_coroutine_threadsafe(job(self._agents), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


class Ground:
    """A running testbed, and the ways in which attackers act on it."""

    def __init__(self, folder: Folder, graph: nx.Graph, *, small: bool) -> None:
        """Look around; `small` is for attacks that can be shorter."""
        self.folder = folder
        self.graph = graph
        self.small = small
        self._operator = _Operator(folder, graph)
        self.nodes = {node.name: node for node in fattree.nodes(graph)}
        self.records: list[VipRecord] = asyncio.run(holdings.records(folder))
        plain = [r for r in self.records if not r.spec.ports and not r.tips and r.switch is not None]
        if not plain:
            raise ValueError("attacks need a VIP without port groups on an HMux")
        self.vip = min(plain, key=lambda record: record.address)
        """A VIP on an HMux."""

    # Who there is

    def some(self, kind: Kind, number: int = 0) -> fattree.Node:
        """Return a node of a kind; of servers those with DIPs."""
        found = [n for n in fattree.nodes(self.graph, kind) if n.kind is not Kind.SERVER or n.is_dip]
        return found[number]

    @property
    def outside(self) -> fattree.Node:
        """The network outside."""
        return self.nodes["outside"]

    def link(self, node: str, neighbour: str | None = None) -> tuple[fattree.Port, fattree.Port]:
        """Return a node's own end and the far end of its link to a neighbour, or of its first."""
        links = fattree.links(self.graph, node)
        link = next(one for one in links if neighbour in (None, one.peer(node).node))
        return link.port(node), link.peer(node)

    def server_of(self, dip: IPv4Address) -> fattree.Node:
        """Return the server that has a DIP."""
        servers = fattree.nodes(self.graph, Kind.SERVER)
        return next(node for node in servers if node.prefix is not None and dip in node.prefix)

    def credentials(self, name: str) -> Credentials:
        """Return somebody's credentials, as who has broken into their node has them."""
        return Credentials(self.folder.identity(name))

    # What can be done

    def act(self, node: str, job: Callable[[], Awaitable[Result]]) -> Result:
        """Run a coroutine in a node's namespace."""

        async def run() -> Result:
            return await job()

        return probe.run_in({0: (self.folder.namespace(node), run)})[0]

    def inside(self, node: str, job: Callable[[], Result]) -> Result:
        """Run a function in a node's namespace."""
        results: list[Result] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                namespaces.enter(self.folder.namespace(node))
                results.append(job())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def operate(self, job: Callable[[Agents], Coroutine[Any, Any, Result]]) -> Result:
        """Look at agents, as the operator can."""

        return self._operator.ask(job)

    def close(self) -> None:
        """End the operator's connections."""
        self._operator.close()

    def drops(self) -> dict[str, int]:
        """Return what all switches and SMuxes and servers have dropped, by reason, `somewhere: reason`."""

        async def read(agents: Agents) -> dict[str, int]:
            found: dict[str, int] = {}
            counters = await asyncio.gather(*(mux.counters() for mux in agents.muxes.values()))
            for name, counted in zip(agents.muxes, counters, strict=True):
                found |= {f"{name}: {reason}": count for reason, count in counted.drops.items()}
            return found

        return self.operate(read)

    def frame(self, node: str, packet: Packet, neighbour: str | None = None, **ethernet: Any) -> bytes:
        """Return a frame as a node sends it to what it hangs on."""
        own, far = self.link(node, neighbour)
        return bytes(Ether(**({"src": own.mac, "dst": far.mac} | ethernet)) / packet)

    def send(self, node: str, *frames: bytes, neighbour: str | None = None) -> None:
        """Have a node's root send frames as they are."""
        own, _ = self.link(node, neighbour)

        def work() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((own.name, 0))
                for frame in frames:
                    raw.send(frame)

        self.inside(node, work)

    @contextmanager
    def watching(self, node: str) -> Iterator[Sniffer]:
        """Yield what sees what a host's stack gets."""
        own, _ = self.link(node)
        sniffer = self.inside(node, lambda: Sniffer(own.name))
        try:
            yield sniffer
        finally:
            sniffer.close()

    def smuggled(
        self, sender: str, packet: Packet, target: str, neighbour: str | None = None, **ethernet: Any
    ) -> Outcome:
        """Send a packet ten times and look whether it gets to the stack of `target`, a host.

        Afterwards the target is pinged by a client: what was sent before has come by then, if it comes.
        """
        marker = os.urandom(12)
        before = self.drops()
        with self.watching(target) as sniffer:
            marked = self.frame(sender, packet / Raw(marker), neighbour, **ethernet)
            self.send(sender, *[marked] * 10, neighbour=neighbour)
            client, there = self.some(Kind.CLIENT), self.nodes[target].address
            answer = self.act(client.name, lambda: probe.ping(client.address, there, _ANSWER_S))
            arrived = sniffer.saw(marker)
        if answer.error or not sniffer.frames:
            raise RuntimeError(f"{target} cannot be watched: {answer.error}, {sniffer.frames} frames seen")
        return Outcome(arrived, self.what_dropped(before))

    def what_dropped(self, before: dict[str, int]) -> str:
        """Say which counters of drops have risen."""
        risen = {name: count - before.get(name, 0) for name, count in self.drops().items()}
        found = [f"{name} +{count}" for name, count in risen.items() if count > 0]
        return "dropped: " + ", ".join(found) if found else "nothing was counted as dropped"

    def serves(self, record: VipRecord | None = None) -> str:
        """Return what is wrong with a VIP as a client sees it, or nothing."""
        vip = (record or self.vip).address
        client = self.some(Kind.CLIENT)
        exchange = self.act(client.name, lambda: probe.http(client.address, vip, 80, _ANSWER_S))
        return exchange.error or ""
