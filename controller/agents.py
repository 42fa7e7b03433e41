"""The agents of an inventory, as the modules of a controller see them: one client each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from controller.inventory import Inventory
from controller.servers import Meters
from controller.updater.devices import Device, MuxDevice, ServerDevice
from controller.updater.plan import DeviceKind
from duet_p4.identity import Credentials
from duet_p4.rest.client import HostClient, MuxClient, RestClient

_Client = TypeVar("_Client", bound=RestClient)


class Agents:
    """Clients by name. What an inventory leaves as it was keeps its client when another is adopted."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._lead: tuple[int, Callable[[], bool]] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.muxes: dict[str, MuxClient] = {}
        self.hosts: dict[str, HostClient] = {}
        self.meters: dict[str, Meters] = {}
        self.devices: dict[str, Device] = {}
        self.clients: dict[str, MuxClient | HostClient] = {}

    def lead(self, term: int, leads: Callable[[], bool]) -> None:
        """Have every write say that it is the leader's of a term."""
        self._lead = term, leads
        for device in self.devices.values():
            device.lead(term, leads)

    def adopt(self, inventory: Inventory) -> None:
        """Have clients of the agents of an inventory, and of no others."""
        switches = {switch.name: switch.agent for switch in inventory.switches}
        smuxes = {smux.name: smux.agent for smux in inventory.smuxes}
        known = dict(self.clients)
        self.muxes = {name: self._client(MuxClient, name, url) for name, url in (switches | smuxes).items()}
        self.hosts = {s.name: self._client(HostClient, s.name, s.agent) for s in inventory.servers}
        now: dict[str, MuxClient | HostClient] = {**self.muxes, **self.hosts}
        devices: dict[str, Device] = {}
        for name, client in now.items():
            if known.get(name) is client:
                devices[name] = self.devices[name]
            elif isinstance(client, HostClient):
                devices[name] = ServerDevice(client)
            else:
                devices[name] = MuxDevice(client, DeviceKind.SWITCH if name in switches else DeviceKind.SMUX)
            if self._lead is not None:
                devices[name].lead(*self._lead)
        self.devices = devices
        self.meters = {name: Meters(client) for name, client in self.hosts.items()}
        self.clients.clear()
        self.clients.update(now)
        for name, client in known.items():
            if now.get(name) is not client:
                closing = asyncio.create_task(client.close(), name=f"close {name}")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*self._closing, *(client.close() for client in self.clients.values()))

    def _client(self, kind: type[_Client], name: str, url: str) -> _Client:
        known = self.clients.get(name)
        if isinstance(known, kind) and known.url == url:
            return known
        return kind(url, credentials=self._credentials)
