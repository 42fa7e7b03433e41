"""Puts the controller together: the modules that shall run here, and the way to those that run elsewhere.

Modules only ever talk REST. Those in one process call each other's application directly, without a
socket in between; the requests, and what becomes of errors, are the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from controller.access import ACCESS, BODIES
from controller.agents import Agents
from controller.audit import Audit
from controller.client import EngineClient, MonitoringClient, UpdaterClient
from controller.cluster import status
from controller.cluster.etcd import EtcdClient
from controller.cluster.member import Foundation, Member
from controller.config import ControllerConfig, Module
from controller.engine.live import api as engine_api
from controller.engine.live.api import AssignmentRequest
from controller.engine.live.network import Outages
from controller.events import EventLog
from controller.inventory import Inventory, InventoryFile
from controller.jobs import Job, Supervisor
from controller.metrics import registry_of
from controller.monitoring import api as monitoring_api
from controller.monitoring import flows
from controller.monitoring.service import Monitoring
from controller.records import RecordFeed, TrafficSample
from controller.servers import live_flows
from controller.state import State
from controller.store import SqliteStore, StoreError
from controller.updater import api as updater_api
from controller.updater import reads
from controller.updater.operations import Operations
from controller.updater.reads import Placement
from controller.updater.service import Updater
from controller.web.page import add_page
from duet_p4 import slots
from duet_p4.api.problems import UnavailableError
from duet_p4.api.service import Health
from duet_p4.api.service import State as ServiceState
from duet_p4.flow_hash import use_key
from duet_p4.identity import Credentials, CredentialsError, Role
from duet_p4.rest import problems
from duet_p4.rest.access import ACTOR
from duet_p4.rest.app import create_app
from duet_p4.rest.client import RestClient, RestError
from duet_p4.rest.server import serve, serve_local
from duet_p4.telemetry import exporting

logger = logging.getLogger(__name__)

Client = TypeVar("Client", bound=RestClient)

_LOOK_S = 1.0
_BELIEVE_S = 1.0
_FORGET_S = 10.0
_TOLD = 20


class EngineInputs:
    """What the engine asks the other modules."""

    def __init__(self, monitoring: MonitoringClient, updater: UpdaterClient, traffic_s: float) -> None:
        self._monitoring = monitoring
        self._updater = updater
        self._traffic_s = traffic_s
        self._inventory: Inventory | None = None
        self._inventory_number = -1
        self._version = -1
        self._outages = Outages()

    async def inventory(self) -> Inventory:
        """Return the network, which `outages` told of last."""
        if self._inventory is None:
            self._inventory = await self._monitoring.inventory()
        return self._inventory

    async def outages(self) -> Outages:
        """Return what of the network is down."""
        network = await self._monitoring.network()
        if network.version != self._version:
            self._version = network.version
            if network.inventory != self._inventory_number:
                self._inventory, self._inventory_number = None, network.inventory
            self._outages = Outages(
                network.lost, network.links_down, network.closed, network.tables, network.routes
            )
        return self._outages

    async def traffic(self) -> list[TrafficSample]:
        """Return the measured traffic matrix of one assignment interval."""
        return await self._monitoring.traffic(self._traffic_s)

    async def records(self, after: int) -> RecordFeed:
        """Return what changed of the wanted VIPs since a version."""
        return await self._updater.records(after)


class Controller:
    """The modules of one process, and what they do by themselves."""

    def __init__(
        self, config: ControllerConfig, credentials: Credentials | None, stack: AsyncExitStack
    ) -> None:
        self.config = config
        self._stack = stack
        self.credentials = credentials
        self._agents = Agents(credentials)
        stack.push_async_callback(self._agents.close)
        self.supervisor = Supervisor([], self._job_failed)
        self._events: EventLog | None = None
        self.app: FastAPI = create_app(
            "DUET controller",
            access=None if config.insecure else ACCESS,
            credentials=self.credentials,
            bodies=BODIES,
            health=self.health,
            description="Monitoring, DUET engine, assignment updater.",
        )

        @self.app.exception_handler(RestError)
        async def _module_away(_: HttpRequest, error: RestError) -> Response:
            """A request that needs another module fails with it, and changes nothing."""
            return problems.response(UnavailableError(str(error)).problem)

        @self.app.exception_handler(StoreError)
        async def _not_stored(_: HttpRequest, error: StoreError) -> Response:
            """A request whose change cannot be stored fails, and changes nothing."""
            return problems.response(UnavailableError(str(error)).problem)

    async def assemble(self, inventory: Inventory, foundation: Foundation | None) -> None:
        """Put the modules of `config.modules` together; an updater needs a foundation."""
        config = self.config
        self._agents.adopt(inventory)
        updater = monitoring = None
        if foundation is not None:
            foundation.state.adopt(inventory)
            self._agents.lead(foundation.term, foundation.leads)
            updater = self._updater(foundation, inventory)
        if Module.ENGINE in config.modules:
            window = config.intervals.assignment or 600.0
            inputs = EngineInputs(
                self._module(MonitoringClient, Module.MONITORING),
                self._module(UpdaterClient, Module.UPDATER),
                window,
            )
            self.app.include_router(engine_api.router(inputs))
        if Module.MONITORING in config.modules:
            monitoring = self._monitoring(inventory)
        self._follow_inventory(inventory, updater, monitoring)
        add_page(self.app)
        registry = registry_of(self.supervisor.jobs, updater, monitoring)

        @self.app.get("/metrics", tags=["monitoring"], response_class=Response, include_in_schema=False)
        async def metrics() -> Response:
            """Return the controller's metrics in the Prometheus text format."""
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def _follow_inventory(
        self, inventory: Inventory, updater: Updater | None, monitoring: Monitoring | None
    ) -> None:
        """Go on with what the file of the inventory says, whenever that changes."""
        agents = self._agents

        def objections(new: Inventory) -> list[str]:
            return updater.objections(new) if updater is not None else []

        def adopt(new: Inventory) -> None:
            agents.adopt(new)
            if updater is not None:
                updater.adopt(new, agents.devices, live_flows(new, agents.hosts))
            if monitoring is not None:
                monitoring.adopt(new, agents.muxes, agents.hosts, agents.meters)

        follower = InventoryFile(self.config.inventory, inventory, objections, adopt)
        self.supervisor.jobs.append(Job("inventory", follower.look, every_s=_LOOK_S))

    def _updater(self, foundation: Foundation, inventory: Inventory) -> Updater:
        """Put the updater together: the only module with a store, and the one that leads."""
        intervals = self.config.intervals
        state = foundation.state
        events = self._events = EventLog(foundation.store, foundation.last_event)
        state.on_statement = Audit(events)
        engine = self._module(EngineClient, Module.ENGINE)
        flows = live_flows(inventory, self._agents.hosts)
        updater = Updater(state, events, inventory, self._agents.devices, flows, engine.place)
        self.app.include_router(reads.router(lambda: state, lambda: events))
        self.app.include_router(status.router(lambda: _alone(foundation)))
        operations = Operations()
        self._stack.push_async_callback(operations.close)
        self.app.include_router(updater_api.router(updater, events, operations))
        reconciler = updater.reconciler
        reconciler.begin()

        async def check_doubtful() -> None:
            await reconciler.check_devices(everything=False)

        async def check_all() -> None:
            await reconciler.check_devices(everything=True)

        async def settle() -> None:
            reconciler.settle()

        self.supervisor.jobs += [
            Job("events", events.run),
            Job("reconcile", reconciler.run),
            Job("repair", check_doubtful, every_s=intervals.repair),
            Job("settle", settle, every_s=intervals.settle),
            Job("resync", check_all, every_s=intervals.resync, first=False),
            Job("believe", updater.believe, every_s=_BELIEVE_S),
            Job("forget", reconciler.forget_rested, every_s=_FORGET_S),
        ]
        if intervals.assignment is not None:

            async def reassign() -> None:
                await self._reassign(engine, updater, events)

            self.supervisor.jobs.append(
                Job("assignment", reassign, every_s=intervals.assignment, first=False)
            )
        return updater

    def _monitoring(self, inventory: Inventory) -> Monitoring:
        config, intervals = self.config, self.config.intervals
        monitoring = Monitoring(
            inventory,
            self._module(UpdaterClient, Module.UPDATER),
            self._agents.muxes,
            self._agents.hosts,
            self._agents.meters,
            health_s=intervals.health,
            traffic_s=intervals.traffic,
            misses=config.misses,
            switch_hold_s=config.switch_hold_s,
            suspicious_share=config.suspicious_share,
            traffic_kept_s=intervals.assignment or 0.0,
        )
        self.app.include_router(monitoring_api.router(monitoring))
        self.app.include_router(flows.router(flows.FlowView(self._agents.clients)))
        self.supervisor.jobs += monitoring.jobs()
        return monitoring

    async def _reassign(self, engine: EngineClient, updater: Updater, events: EventLog) -> None:
        result = await engine.compute(AssignmentRequest(strategy=self.config.strategy))
        # Nobody asked for it: the audit log names the controller.
        ACTOR.set(None if self.credentials is None else self.credentials.identity)
        report = await updater.assign(
            Placement(address=p.address, switch=p.switch) for p in result.placements
        )
        events.add(
            "assignment",
            result.strategy,
            hmux_share=result.hmux_share,
            moved=report.done,
            failed=report.failed[:_TOLD],
        )

    def health(self) -> Health:
        """Say whether it does its work."""
        health = self.supervisor.health()
        if not self.supervisor.started:
            return Health(state=ServiceState.STARTING, detail="its jobs have not begun")
        return health

    async def run(self) -> None:
        """Do what it does by itself, until cancelled."""
        await self.supervisor.run()

    def _job_failed(self, job: str, why: str) -> None:
        if self._events is not None:
            self._events.add("job-failed", job, why=why)

    def _module(self, kind: type[Client], module: Module) -> Client:
        """Return a client of a module: in this process, or where `elsewhere` says."""
        if module in self.config.modules:
            client = kind("http://controller", app=self.app)
            self._stack.push_async_callback(client.close)
            return client
        client = kind(self.config.elsewhere[module], credentials=self.credentials)
        self._stack.push_async_callback(client.close)
        return client


def identify(config: ControllerConfig) -> Credentials | None:
    """Read the controller's credentials. Raises CredentialsError."""
    if config.credentials is None:
        return None
    found = Credentials(config.credentials)
    if found.identity.role is not Role.CONTROLLER:
        raise CredentialsError(f"{config.credentials} is of {found.identity}, which is no controller")
    return found


@asynccontextmanager
async def running(config: ControllerConfig) -> AsyncIterator[str]:
    """Run the controller while the context lasts; yields its URL.

    Raises `StoreError`, OSError, ValueError.
    """
    credentials = identify(config)
    inventory = Inventory.from_file(config.inventory)
    use_key(config.flow_key)
    slots.use_powers_of_two(config.power_of_two_slots)
    async with AsyncExitStack() as stack:
        name = config.cluster.name if config.cluster is not None else "controller"
        await stack.enter_async_context(exporting(config.telemetry, "controller", name))
        if config.cluster is not None:
            member = await _member(config, credentials, inventory, stack)
            url = await _serving(config, member, credentials, stack)
            work = asyncio.create_task(member.run(url), name="member")
        else:
            controller = Controller(config, credentials, stack)
            alone = Module.UPDATER in config.modules
            await controller.assemble(
                inventory, await stand_alone(config, inventory, stack) if alone else None
            )
            url = await _serving(config, controller.app, credentials, stack)
            work = asyncio.create_task(controller.run(), name="jobs")
        try:
            yield url
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _alone(foundation: Foundation) -> status.ClusterStatus:
    """Say that a controller without others leads; one of several says so itself (`Member`)."""
    vips = len(foundation.state)
    return status.ClusterStatus(name="controller", leads=True, leader=None, vips=vips)


async def stand_alone(config: ControllerConfig, inventory: Inventory, stack: AsyncExitStack) -> Foundation:
    """Return what the updater of a controller stands on that has its state to itself."""
    assert config.database is not None
    store = SqliteStore(config.database)
    stack.push_async_callback(store.close)
    contents = await store.load()
    term = await store.next_term()
    return Foundation(State(store, contents, inventory), store, term, contents.last_event)


async def _member(
    config: ControllerConfig,
    credentials: Credentials | None,
    inventory: Inventory,
    stack: AsyncExitStack,
) -> Member:
    """Return a controller of a cluster."""
    assert config.cluster is not None

    async def lead(foundation: Foundation, term: AsyncExitStack) -> Controller:
        controller = Controller(config, credentials, term)
        await controller.assemble(inventory, foundation)
        return controller

    client = await stack.enter_async_context(EtcdClient(config.cluster.etcd, credentials))
    member = Member(config, credentials, inventory, client, lead)
    stack.push_async_callback(member.close)
    return member


async def _serving(
    config: ControllerConfig, app: ASGIApp, credentials: Credentials | None, stack: AsyncExitStack
) -> str:
    url = await stack.enter_async_context(
        serve(app, str(config.listen.host), config.listen.port, credentials)
    )
    if config.socket:
        await stack.enter_async_context(serve_local(app, config.socket))
    return url
