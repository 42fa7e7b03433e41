"""The engine's REST interface: assignments, the place of one VIP, explanations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Protocol

from fastapi import APIRouter
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from controller.engine import Explanation, Strategy, make_strategy, strategy_names
from controller.engine.live.network import Outages
from controller.engine.live.planner import Planner
from controller.engine.live.rows import Traffic
from controller.inventory import Inventory
from controller.records import RecordFeed, TrafficSample, VipRecord
from duet_p4.api.problems import InvalidError, UnknownError
from duet_p4.model import Model
from duet_p4.rest.app import problem_responses

Option = StrictBool | StrictInt | StrictFloat | StrictStr


class AssignmentRequest(Model):
    """Which assignment is asked for: a strategy, and its options where they are not its defaults."""

    strategy: str = "sticky"
    options: dict[str, Option] = Field(default_factory=dict, examples=[{"delta": 0.05}])


class Place(Model):
    """Where a VIP or TIP goes; null is the SMuxes."""

    address: IPv4Address
    switch: str | None


class AssignmentResult(Model):
    """A computed assignment; nothing has been carried out."""

    strategy: str
    hmux_share: float = Field(description="share of all traffic that HMuxes carry")
    routes: int = Field(description="/32 routes in use")
    placements: tuple[Place, ...]
    problems: dict[IPv4Address, str] = Field(
        description="VIPs that cannot be assigned, and why; they stay where they are"
    )


class EngineInputs(Protocol):
    """What the engine asks the other modules."""

    async def inventory(self) -> Inventory:
        """Return the network, which `outages` told of last."""

    async def outages(self) -> Outages:
        """Return what of the network is down."""

    async def traffic(self) -> list[TrafficSample]:
        """Return the measured traffic matrix."""

    async def records(self, after: int) -> RecordFeed:
        """Return what changed of the wanted VIPs since a version."""


def router(inputs: EngineInputs) -> APIRouter:
    """Return the engine's paths."""
    api = APIRouter(prefix="/v1")
    engine = _Engine(inputs)

    @api.post("/assignments", tags=["engine"], responses=problem_responses(422))
    async def compute_assignment(body: AssignmentRequest) -> AssignmentResult:
        """Compute an assignment of every VIP from what monitoring measured."""
        try:
            chosen = make_strategy(body.strategy, **body.options)
        except ValueError as error:
            raise InvalidError(str(error)) from error
        return await engine.compute(chosen)

    @api.get("/strategies", tags=["engine"])
    async def get_strategies() -> list[str]:
        """Return the names of the strategies that there are."""
        return list(strategy_names())

    @api.post("/placements", tags=["engine"], responses=problem_responses(422))
    async def place(body: VipRecord) -> dict[IPv4Address, str | None]:
        """Say where one VIP and its TIPs go, while everything else stays."""
        return await engine.place(body)

    @api.get("/explanations/{address}", tags=["engine"], responses=problem_responses(404))
    async def explain(address: IPv4Address) -> Explanation:
        """Say why the last computed assignment put a VIP or TIP where it did."""
        return engine.explain(address)

    return api


Homes = dict[IPv4Address, str | None]
"""Where a VIP and its TIPs go; None is the SMuxes."""


class _Engine:
    """A planner that is told what the other modules know before it is asked."""

    def __init__(self, inputs: EngineInputs) -> None:
        self._inputs = inputs
        self._planner: Planner | None = None
        self._network: tuple[Inventory, Outages] | None = None
        self._version = 0
        self._lock = asyncio.Lock()
        self._waiting: list[tuple[VipRecord, asyncio.Future[Homes]]] = []
        self._placing: asyncio.Task[None] | None = None

    async def compute(self, strategy: Strategy) -> AssignmentResult:
        """Assign every VIP by what is measured now."""
        async with self._lock:
            planner = await self._informed()
            planner.set_traffic(by_source(await self._inputs.traffic()))
            # It takes a while at data-centre size; the other modules of this process go on meanwhile.
            assignment = await asyncio.to_thread(planner.compute, strategy)
            return AssignmentResult(
                strategy=assignment.strategy,
                hmux_share=assignment.hmux_share,
                routes=assignment.routes,
                placements=tuple(Place(address=a, switch=switch) for a, switch in planner.placement()),
                problems=planner.problems,
            )

    async def place(self, record: VipRecord) -> Homes:
        """Place one VIP. Those that are asked for at the same time are placed by what is known then."""
        done: asyncio.Future[Homes] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._placing is None or self._placing.done():
            self._placing = asyncio.create_task(self._place_waiting(), name="placements")
        return await done

    async def _place_waiting(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                async with self._lock:
                    planner = await self._informed()
                    for record, done in waiting:
                        if not done.done():
                            _answer(planner, record, done)
            except Exception as error:
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(error)

    def explain(self, address: IPv4Address) -> Explanation:
        """Explain the last assignment."""
        if self._planner is not None:
            try:
                return self._planner.explain(address)
            except KeyError:
                pass
        raise UnknownError(f"no assignment that was computed names {address}: compute one first")

    async def _informed(self) -> Planner:
        outages = await self._inputs.outages()
        inventory = await self._inputs.inventory()
        feed = await self._inputs.records(self._version)
        try:
            if self._planner is None:
                self._planner = Planner(inventory, outages)
            elif self._network != (inventory, outages):
                self._planner.set_network(inventory, outages)
        except ValueError as error:
            raise InvalidError(str(error)) from error
        self._network = inventory, outages
        self._planner.follow(feed.records, feed.removed, whole=feed.whole)
        self._version = feed.version
        return self._planner


def _answer(planner: Planner, record: VipRecord, done: asyncio.Future[Homes]) -> None:
    try:
        done.set_result(planner.place(record))
    except ValueError as error:
        done.set_exception(InvalidError(str(error)))


def by_source(samples: Iterable[TrafficSample]) -> Traffic:
    """Add samples up per VIP and source."""
    traffic: dict[IPv4Address, dict[str, float]] = {}
    for sample in samples:
        sources = traffic.setdefault(sample.vip, {})
        sources[sample.source] = sources.get(sample.source, 0.0) + sample.bps
    return traffic
