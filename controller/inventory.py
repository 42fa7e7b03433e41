"""What the controller controls: switches, SMuxes, servers, and the links between them.

The inventory is a file that whoever builds the network writes (the testbed does). It says where each
agent listens; everything that changes while the network runs is learned by monitoring.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Self

import networkx as nx
from pydantic import Field, model_validator

from duet_p4.model import Model

logger = logging.getLogger(__name__)


class Role(StrEnum):
    """What a node is in the FatTree."""

    TOR = "tor"
    AGG = "agg"
    CORE = "core"
    SMUX = "smux"
    SERVER = "server"


class TableSizes(Model):
    """How many entries a switch's tables hold; they come from the P4Info of its program."""

    host: int = Field(default=16384, ge=0)
    ecmp: int = Field(default=4096, ge=0)
    tunneling: int = Field(default=512, ge=0)
    acl: int = Field(default=1024, ge=0)
    pinned: int = Field(default=1024, ge=0)


class Switch(Model):
    """A switch that can be an HMux. `container` is None for a Core."""

    name: str
    role: Role
    agent: str
    container: int | None = None
    loopback: IPv4Address
    tables: TableSizes = TableSizes()
    prefixes: tuple[IPv4Network, ...] = Field(
        default=(), description="Sources that enter the network at this switch"
    )


class SMux(Model):
    """A software mux: every VIP's backstop."""

    name: str
    agent: str
    switch: str
    address: IPv4Address


class Server(Model):
    """A server with a host agent, and the addresses of its DIPs."""

    name: str
    agent: str
    switch: str
    dips: tuple[IPv4Address, ...] = ()


class Link(Model):
    """A full-duplex link between two switches; capacity in bit/s each way."""

    ends: tuple[str, str]
    capacity_bps: float = Field(gt=0)


class Inventory(Model):
    """Everything the controller knows before it has asked anybody."""

    switches: tuple[Switch, ...] = Field(min_length=1)
    smuxes: tuple[SMux, ...] = ()
    servers: tuple[Server, ...] = ()
    links: tuple[Link, ...] = ()
    vip_prefix: IPv4Network
    tip_prefix: IPv4Network

    @model_validator(mode="after")
    def _check(self) -> Self:
        hosts: tuple[SMux | Server, ...] = (*self.smuxes, *self.servers)
        names = [*(switch.name for switch in self.switches), *(host.name for host in hosts)]
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(f"two nodes are called {name!r}")
        switches = {switch.name for switch in self.switches}
        for host in hosts:
            if host.switch not in switches:
                raise ValueError(f"{host.name} is attached to {host.switch!r}, which is no switch")
        for link in self.links:
            for end in link.ends:
                if end not in switches:
                    raise ValueError(f"link {'-'.join(link.ends)} ends at {end!r}, which is no switch")
        return self

    def has_switch(self, name: str) -> bool:
        """Whether a switch has that name."""
        return name in self._switches_by_name

    def switch(self, name: str) -> Switch:
        """Return the switch of that name, or raise KeyError naming it."""
        try:
            return self._switches_by_name[name]
        except KeyError:
            raise KeyError(f"no switch is called {name!r}") from None

    def server_at(self, address: IPv4Address) -> Server | None:
        """Return the server that has an address; None where it is not in the inventory."""
        return self._servers_by_address.get(address)

    def has_host(self, address: IPv4Address) -> bool:
        """Whether a DIP may have this address: a server's, or any host's where no servers are listed."""
        if self.servers:
            return address in self._servers_by_address
        return not (
            address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved
        )

    @cached_property
    def _switches_by_name(self) -> dict[str, Switch]:
        return {switch.name: switch for switch in self.switches}

    @cached_property
    def _servers_by_address(self) -> dict[IPv4Address, Server]:
        return {address: server for server in self.servers for address in server.dips}

    def graph(self) -> nx.Graph:
        """Return the switches and links as a graph: nodes carry `container`, edges `capacity_bps`."""
        graph = nx.Graph()
        graph.add_nodes_from((switch.name, {"container": switch.container}) for switch in self.switches)
        graph.add_edges_from((*link.ends, {"capacity_bps": link.capacity_bps}) for link in self.links)
        return graph


class InventoryError(ValueError):
    """An inventory that cannot be gone on with; the text says why."""


class InventoryFile:
    """Follows the file of an inventory: racks and servers come and go while the controller runs.

    `objections` says why another inventory cannot be gone on with, `adopt` goes on with it.
    """

    def __init__(
        self,
        path: Path,
        inventory: Inventory,
        objections: Callable[[Inventory], list[str]],
        adopt: Callable[[Inventory], None],
    ) -> None:
        self._path = path
        self._inventory = inventory
        self._objections = objections
        self._adopt = adopt
        self._seen: tuple[int, int, int] | None = None

    async def look(self) -> None:
        """Go on with what the file says, if it is new.

        Raises `InventoryError` where that is no inventory, or something speaks against it: then all stays as
        it is, until the next look.
        """
        try:
            await self._look()
        except (OSError, ValueError) as error:
            raise InventoryError(f"the inventory stays as it is: {error}") from error

    async def _look(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen == self._seen:
            return
        found = await asyncio.to_thread(Inventory.from_file, self._path)
        if found != self._inventory:
            if objections := self._objections(found):
                raise InventoryError("; ".join(objections))
            self._adopt(found)
            self._inventory = found
            logger.info("%s was read anew", self._path)
        self._seen = seen
