"""The host agent: one process per server that holds its data path, checks its DIPs, and answers REST.

The eBPF programs live as long as this process. VIPs are journaled: an agent that was killed serves
them again as soon as it starts, before it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI

from duet_p4 import agent, netdev
from duet_p4.allocation import TableFullError
from duet_p4.host_agent.config import HostConfig
from duet_p4.host_agent.connections import live_connections
from duet_p4.host_agent.datapath import EXITS, HostDatapath, Meter, Source
from duet_p4.host_agent.health import HealthMonitor, HealthReport, Reporter
from duet_p4.host_agent.model import HostVip, LiveFlow
from duet_p4.journal import Journal
from duet_p4.model import Model
from duet_p4.rest.app import Health, State, create_app, problem_responses
from duet_p4.rest.client import RestClient
from duet_p4.rest.problems import ConflictError, InvalidError, UnknownError
from duet_p4.rest.server import serve
from duet_p4.signals import told_to_end
from duet_p4.traffic import Exit, describe

logger = logging.getLogger(__name__)

_EXPIRE_S = 5.0


class HostChange(Model):
    """What a request changed: entries written to the data path, and how long that took."""

    address: IPv4Address
    updates: int
    milliseconds: float


class HostStatus(Model):
    """A host agent at a glance."""

    name: str
    uptime_s: float
    vips: int
    interfaces: tuple[str, ...]
    snat_connections: int
    exits: tuple[Exit, ...]
    writes: int


class HostService:
    """Keeps data path, checks and journal in step. No method awaits, so each is atomic."""

    def __init__(
        self, config: HostConfig, datapath: HostDatapath, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._datapath = datapath
        self._journal = Journal(config.state_dir / "vips", HostVip)
        self._monitor = HealthMonitor(changed)
        self._started = time.monotonic()
        self._writes = 0
        self.vips: dict[IPv4Address, HostVip] = {}
        for vip in self._journal.load():
            self._apply(vip)

    def put_vip(self, vip: HostVip) -> HostChange:
        """Serve a VIP as stated. Raises ConflictError where a table is full."""
        began = time.perf_counter()
        self._journal.put(vip.address, vip)
        try:
            updates = self._apply(vip)
        except TableFullError as error:
            self._journal.restore(vip.address, self.vips.get(vip.address))
            raise ConflictError(f"VIP {vip.address}: {error}", "table-full") from error
        return self._change(vip.address, updates, began)

    def delete_vip(self, address: IPv4Address) -> HostChange:
        """Stop to serve a VIP. Raises UnknownError where it is not there."""
        began = time.perf_counter()
        self.vip(address)
        self._journal.delete(address)
        del self.vips[address]
        self._monitor.delete_vip(address)
        return self._change(address, self._datapath.delete_vip(address), began)

    def vip(self, address: IPv4Address) -> HostVip:
        """Return a VIP. Raises UnknownError where it is not there."""
        if address not in self.vips:
            raise UnknownError(f"VIP {address} is not on {self._config.name}")
        return self.vips[address]

    def live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        """Return the TCP connections that DIPs of this server have through a VIP, SNAT's too."""
        self.vip(address)
        found = []
        for flow in live_connections():
            origin = self._datapath.origin(flow)
            if origin is not None and origin[0] == address:
                found.append(
                    LiveFlow(
                        protocol=flow.protocol,
                        source=flow.source,
                        source_port=flow.source_port,
                        destination_port=origin[1],
                        dip=flow.destination,
                    )
                )
        return found

    def health(self) -> HealthReport:
        """Return the verdict of every check."""
        return HealthReport(server=self._config.name, dips=tuple(self._monitor.health()))

    def status(self) -> HostStatus:
        """Return the agent at a glance."""
        return HostStatus(
            name=self._config.name,
            uptime_s=time.monotonic() - self._started,
            vips=len(self.vips),
            interfaces=self._config.interfaces,
            snat_connections=self._datapath.snat_connections(),
            exits=describe(self._datapath.exits(), EXITS),
            writes=self._writes,
        )

    async def expire(self) -> None:
        """Forget idle outgoing connections, now and then, until cancelled."""
        while True:
            await asyncio.sleep(_EXPIRE_S)
            if any(vip.snat for vip in self.vips.values()):
                self._datapath.expire(self._config.snat_timeouts)

    async def close(self) -> None:
        """Stop the checks."""
        await self._monitor.close()

    def _apply(self, vip: HostVip) -> int:
        updates = self._datapath.put_vip(vip)
        self.vips[vip.address] = vip
        self._monitor.put_vip(vip)
        return updates

    def _change(self, address: IPv4Address, updates: int, began: float) -> HostChange:
        self._writes += updates
        return HostChange(address=address, updates=updates, milliseconds=(time.perf_counter() - began) * 1e3)


def router(service: HostService, datapath: HostDatapath) -> APIRouter:
    """Return the paths of a host agent."""
    api = APIRouter(prefix="/v1")

    @api.get("/vips", tags=["vips"])
    async def get_vips() -> list[HostVip]:
        """List the VIPs that this server's DIPs serve."""
        return [service.vips[address] for address in sorted(service.vips)]

    @api.get("/vips/{vip}", tags=["vips"], responses=problem_responses(404))
    async def get_vip(vip: IPv4Address) -> HostVip:
        """Return one VIP."""
        return service.vip(vip)

    @api.put("/vips/{vip}", tags=["vips"], responses=problem_responses(409))
    async def put_vip(vip: IPv4Address, body: HostVip) -> HostChange:
        """Serve a VIP exactly as given."""
        if vip != body.address:
            raise InvalidError(f"the path names VIP {vip}, the body {body.address}")
        return service.put_vip(body)

    @api.delete("/vips/{vip}", tags=["vips"], responses=problem_responses(404))
    async def delete_vip(vip: IPv4Address) -> HostChange:
        """Stop to serve a VIP."""
        return service.delete_vip(vip)

    @api.get("/vips/{vip}/flows", tags=["vips"], responses=problem_responses(404))
    async def get_flows(vip: IPv4Address) -> list[LiveFlow]:
        """List the live TCP connections that this server's DIPs have through a VIP."""
        return service.live_flows(vip)

    @api.get("/health", tags=["status"])
    async def get_health() -> HealthReport:
        """Return the health of the DIPs."""
        return service.health()

    @api.get("/meters", tags=["status"])
    async def get_meters() -> list[Meter]:
        """Return packets and bytes per VIP and DIP, both ways."""
        return datapath.meters()

    @api.get("/sources", tags=["status"])
    async def get_sources() -> list[Source]:
        """Return packets and bytes received per VIP, DIP and /24 of clients."""
        return datapath.sources()

    @api.get("/status", tags=["status"])
    async def get_status() -> HostStatus:
        """Return the agent at a glance."""
        return service.status()

    return api


def application(config: HostConfig, service: HostService, datapath: HostDatapath) -> FastAPI:
    """Return the REST interface."""
    app = create_app(
        f"Host agent {config.name}", token=config.token(), health=lambda: Health(state=State.READY)
    )
    app.include_router(router(service, datapath))
    return app


async def run(config: HostConfig) -> None:
    """Be a host agent until told to end."""
    ended = told_to_end()
    datapath = HostDatapath(
        flows=config.flows, snat_connections=config.snat_connections, snat_exclude=config.snat_exclude
    )
    async with AsyncExitStack() as stack:
        stack.callback(datapath.close)
        reporter = await _reporter(config, stack)
        service = HostService(config, datapath, reporter.changed if reporter else lambda: None)
        stack.push_async_callback(service.close)
        for interface in config.interfaces:
            # Strict reverse-path filtering would drop clients that are routed another way.
            netdev.set_ipv4_option(interface, "rp_filter", 2)
            datapath.attach(netdev.index(interface), config.xdp_mode)
        app = application(config, service, datapath)
        url = await stack.enter_async_context(serve(app, str(config.listen), config.port, config.tls()))
        logger.info("serves %s, on %s", url, ", ".join(config.interfaces))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(service.expire(), name="expire")]
            if reporter:
                running.append(tasks.create_task(reporter.run(service.health), name="report"))
            await ended.wait()
            for task in running:
                task.cancel()


async def _reporter(config: HostConfig, stack: AsyncExitStack) -> Reporter | None:
    if config.report_url is None:
        return None
    url = urlsplit(config.report_url)
    client = RestClient(f"{url.scheme}://{url.netloc}", token=config.token(), ca=config.report_ca)
    return Reporter(await stack.enter_async_context(client), url.path, config.report_interval_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the host agent; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.host_agent", description="The host agent of a server.")
    return agent.main(parser, argv, HostConfig, lambda config: asyncio.run(run(config)))
