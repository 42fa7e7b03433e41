"""The agents of a running testbed, over REST: whether they are ready, what they hold, putting VIPs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import networkx as nx

from controller.client import ControllerClient, local_socket
from duet_p4.api.service import State
from duet_p4.identity import Credentials
from duet_p4.rest.client import DEFAULT_TIMEOUT_S, HostClient, MuxClient, RestClient, RestError
from mininet_topos import fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.folder import OPERATOR, Folder, TestbedError

PORT = 8443
"""Where every agent answers, on its management address."""

Result = TypeVar("Result")
Client = TypeVar("Client", bound=RestClient)

_POLL_S = 0.2
_PARALLEL = 16


def url(node: fattree.Node) -> str:
    """Return where a node's agent answers."""
    if node.management is None:
        raise TestbedError(f"{node.name} has no agent")
    return f"https://{node.management.ip}:{PORT}"


@dataclass
class Agents:
    """Clients of all agents, by node name."""

    graph: nx.Graph
    switches: dict[str, MuxClient]
    smuxes: dict[str, MuxClient]
    servers: dict[str, HostClient]

    @property
    def muxes(self) -> dict[str, MuxClient]:
        """Switches and SMuxes."""
        return self.switches | self.smuxes

    def only(self, names: Collection[str]) -> Agents:
        """Return the clients of these nodes."""
        return Agents(
            self.graph,
            {name: client for name, client in self.switches.items() if name in names},
            {name: client for name, client in self.smuxes.items() if name in names},
            {name: client for name, client in self.servers.items() if name in names},
        )

    @property
    def all(self) -> Mapping[str, RestClient]:
        """Every agent."""
        return {**self.switches, **self.smuxes, **self.servers}


@asynccontextmanager
async def connect(folder: Folder, graph: nx.Graph) -> AsyncIterator[Agents]:
    """Yield clients of every agent; meanwhile the calling thread is in the testbed's root namespace."""
    operator = Credentials(folder.identity(OPERATOR))
    with namespaces.entered(folder.root):
        async with AsyncExitStack() as stack:

            async def client(kind: type[Client], node: fattree.Node) -> Client:
                made = kind(url(node), credentials=operator)
                await stack.enter_async_context(made)
                return made

            found = Agents(graph, {}, {}, {})
            for node in fattree.nodes(graph, *SWITCHES, Kind.SMUX):
                held = found.switches if node.is_switch else found.smuxes
                held[node.name] = await client(MuxClient, node)
            for node in fattree.nodes(graph, Kind.SERVER):
                if node.is_dip:
                    found.servers[node.name] = await client(HostClient, node)
            yield found


@asynccontextmanager
async def controller(folder: Folder, timeout_s: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ControllerClient]:
    """Yield a client of the controller, or of one that answers, over its Unix socket."""
    async with ControllerClient(
        "http://controller", local=local_socket(folder.path), timeout_s=timeout_s
    ) as client:
        yield client


async def await_ready(agents: Agents, deadline: float, tell: Callable[[int, int], None]) -> None:
    """Wait until every agent says it is ready; `tell` hears how many are, of how many.

    Raises `TestbedError` naming those that are not at `deadline` (`time.monotonic`), and what they say.
    """
    waiting = dict.fromkeys(agents.all, "no answer yet")
    told = 0

    async def look(name: str) -> None:
        try:
            health = await agents.all[name].health()
        except (RestError, ValueError) as error:
            waiting[name] = str(error)
            return
        if health.state is State.READY:
            del waiting[name]
        else:
            waiting[name] = f"{health.state}: {health.detail or 'gives no reason'}"

    while waiting:
        await gather([look(name) for name in waiting])
        ready = len(agents.all) - len(waiting)
        if ready != told:
            told = ready
            tell(ready, len(agents.all))
        if waiting and time.monotonic() > deadline:
            lines = "\n".join(f"  - {name}: {why}" for name, why in waiting.items())
            raise TestbedError(f"{len(waiting)} agents are not ready in time:\n{lines}")
        if waiting:
            await asyncio.sleep(_POLL_S)


async def gather(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Await all, a few at a time. Where one fails, none goes on: who asked may close what they ask by."""
    slots = asyncio.Semaphore(_PARALLEL)

    async def one(item: Coroutine[Any, Any, Result]) -> Result:
        try:
            async with slots:
                return await item
        finally:
            item.close()  # It was not begun if this is cancelled before there is a slot.

    tasks = [asyncio.ensure_future(one(item)) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
