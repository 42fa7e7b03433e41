"""Puts the controller together: the modules that shall run here, and the way to those that run elsewhere.

Modules only ever talk REST. Those in one process call each other's application directly, without a
socket in between; the requests are the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from controller.client import EngineClient, MonitoringClient, UpdaterClient
from controller.config import ControllerConfig, Module
from controller.engine.live import api as engine_api
from controller.engine.live.api import AssignmentRequest
from controller.engine.live.network import Outages
from controller.events import EventLog
from controller.inventory import Inventory
from controller.metrics import registry_of
from controller.monitoring import api as monitoring_api
from controller.monitoring.agents import Reach
from controller.monitoring.service import Monitoring
from controller.servers import ServerDevice, live_flows
from controller.store import Store, TrafficSample, VipRecord
from controller.updater import api as updater_api
from controller.updater.devices import Device, MuxDevice
from controller.updater.plan import DeviceKind
from controller.updater.service import Placement, Updater
from duet_p4.api.problems import UnavailableError
from duet_p4.rest import problems
from duet_p4.rest.app import create_app
from duet_p4.rest.client import MuxClient, RestClient, RestError
from duet_p4.rest.credentials import read_token
from duet_p4.rest.server import Tls, serve, serve_local

logger = logging.getLogger(__name__)

Client = TypeVar("Client", bound=RestClient)


class Surroundings:
    """What the engine asks the other modules."""

    def __init__(self, monitoring: MonitoringClient, updater: UpdaterClient, traffic_s: float) -> None:
        self._monitoring = monitoring
        self._updater = updater
        self._traffic_s = traffic_s

    async def inventory(self) -> Inventory:
        """Return the network."""
        return await self._monitoring.inventory()

    async def traffic(self) -> list[TrafficSample]:
        """Return the measured traffic matrix of one assignment interval."""
        return await self._monitoring.traffic(self._traffic_s)

    async def outages(self) -> Outages:
        """Return the switches that are out of reach: they get nothing new."""
        away = {state.name for state in await self._monitoring.agents() if state.reach is Reach.UNREACHABLE}
        names = [switch.name for switch in (await self.inventory()).switches if switch.name in away]
        return Outages(closed=names)

    async def vips(self) -> list[VipRecord]:
        """Return the wanted VIPs."""
        return await self._updater.vips()


class Controller:
    """The modules of one process. `start` begins their work; `close` ends it."""

    def __init__(self, config: ControllerConfig, stack: AsyncExitStack) -> None:
        self.config = config
        self._stack = stack
        self._token = read_token(config.token_file) if config.token_file else None
        self.app: FastAPI = create_app(
            "DUET controller", token=self._token, description="Monitoring, DUET engine, assignment updater."
        )
        self._jobs: list[tuple[str, Callable[[], Awaitable[None]]]] = []

        @self.app.exception_handler(RestError)
        async def _module_away(_: HttpRequest, error: RestError) -> Response:
            """A request that needs another module fails with it, and changes nothing."""
            return problems.response(UnavailableError(str(error)).problem)

    def assemble(self) -> None:
        """Mount the modules of `config.modules`."""
        config = self.config
        inventory = Inventory.from_file(config.inventory)
        store = Store(config.database)
        self._stack.callback(store.close)
        events = EventLog(store)
        muxes = {switch.name: switch.agent for switch in inventory.switches}
        smuxes = {smux.name: smux.agent for smux in inventory.smuxes}
        clients = {name: self._agent(MuxClient, url) for name, url in (muxes | smuxes).items()}
        servers = {server.name: self._server(server.agent) for server in inventory.servers}
        updater_client = self._module(UpdaterClient, Module.UPDATER)
        engine_client = self._module(EngineClient, Module.ENGINE)
        monitoring_client = self._module(MonitoringClient, Module.MONITORING)

        if Module.UPDATER in config.modules:
            devices: dict[str, Device] = {
                name: MuxDevice(client, DeviceKind.SWITCH if name in muxes else DeviceKind.SMUX)
                for name, client in clients.items()
            }
            devices |= servers
            flows = live_flows(inventory, servers)
            updater = Updater(store, events, inventory, devices, flows, engine_client.place)
            self.app.include_router(updater_api.router(updater, store, events))
            self._every("repair", config.intervals.repair, updater.repair)
            self._every("settle", config.intervals.settle, updater.settle)
            self._every("resync", config.intervals.resync, lambda: _resync(updater))
        if Module.ENGINE in config.modules:
            window = config.intervals.assignment or 600.0
            around = Surroundings(monitoring_client, updater_client, window)
            self.app.include_router(engine_api.router(around))
            if config.intervals.assignment is not None:
                self._every(
                    "assignment",
                    config.intervals.assignment,
                    lambda: self._reassign(engine_client, updater_client, events),
                    first=False,
                )
        if Module.MONITORING in config.modules:
            intervals = config.intervals
            monitoring = Monitoring(
                inventory,
                store,
                updater_client,
                clients,
                {name: server.client for name, server in servers.items()},
                servers,
                health_s=intervals.health,
                traffic_s=intervals.traffic,
                misses=config.misses,
                switch_hold_s=config.switch_hold_s,
            )
            self.app.include_router(monitoring_api.router(monitoring))
            self._jobs.append(("monitoring", monitoring.run))
        registry = registry_of(store)

        @self.app.get("/metrics", tags=["monitoring"], response_class=Response, include_in_schema=False)
        async def metrics() -> Response:
            """Return the controller's metrics in the Prometheus text format."""
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def run_jobs(self) -> None:
        """Do what the modules do by themselves, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, job in self._jobs:
                group.create_task(_run(job), name=name)

    async def _reassign(self, engine: EngineClient, updater: UpdaterClient, events: EventLog) -> None:
        result = await engine.compute(AssignmentRequest(strategy=self.config.strategy))
        placements = [Placement(address=p.address, switch=p.switch) for p in result.placements]
        report = await updater.assign(placements)
        events.add(
            "assignment",
            result.strategy,
            hmux_share=result.hmux_share,
            moved=report.done,
            failed=report.failed,
        )

    def _every(
        self, name: str, seconds: float, job: Callable[[], Awaitable[None]], *, first: bool = True
    ) -> None:
        async def loop() -> None:
            if first:
                await _guarded(name, job)
            while True:
                await asyncio.sleep(seconds)
                await _guarded(name, job)

        self._jobs.append((name, loop))

    def _agent(self, kind: type[Client], url: str) -> Client:
        client = kind(url, token=self._token, ca=self.config.ca)
        self._stack.push_async_callback(client.close)
        return client

    def _server(self, url: str) -> ServerDevice:
        return ServerDevice(self._agent(RestClient, url))

    def _module(self, kind: type[Client], module: Module) -> Client:
        """Return a client of a module: in this process, or where `elsewhere` says."""
        if module in self.config.modules:
            client = kind("http://controller", token=self._token, app=self.app)
            self._stack.push_async_callback(client.close)
            return client
        return self._agent(kind, self.config.elsewhere[module])


@asynccontextmanager
async def running(config: ControllerConfig) -> AsyncIterator[str]:
    """Run the controller while the context lasts; yields its URL."""
    async with AsyncExitStack() as stack:
        controller = Controller(config, stack)
        controller.assemble()
        tls = Tls(config.certificate, config.key) if config.certificate and config.key else None
        url = await stack.enter_async_context(
            serve(controller.app, str(config.listen.host), config.listen.port, tls)
        )
        if config.socket:
            await stack.enter_async_context(serve_local(controller.app, config.socket))
        jobs = asyncio.create_task(controller.run_jobs(), name="jobs")
        try:
            yield url
        finally:
            jobs.cancel()
            await asyncio.gather(jobs, return_exceptions=True)


async def _resync(updater: Updater) -> None:
    await updater.resync()


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()


async def _guarded(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Do a job; what fails is logged and tried again the next time."""
    try:
        await job()
    except RestError as error:
        logger.warning("%s failed: %s", name, error)
    except Exception:
        logger.exception("%s failed", name)
