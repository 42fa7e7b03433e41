"""The engine's REST interface: assignments, the place of one new VIP, explanations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Annotated, Protocol

from fastapi import APIRouter
from pydantic import Field

from controller.engine.assignment import Assignment
from controller.engine.planner import StrategyName, compute, strategy
from controller.inventory import Inventory
from controller.store import TrafficSample, VipRecord
from duet_p4.api.problems import InvalidError, UnknownError
from duet_p4.model import Model
from duet_p4.rest.app import problem_responses


class Request(Model):
    """Which assignment is asked for."""

    strategy: StrategyName = StrategyName.STICKY
    delta: Annotated[float, Field(ge=0, le=1, description="sticky moves a VIP for more than this")] = 0.05
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


class Placed(Model):
    """Where a VIP or TIP goes, and why. Utilizations are at the time it was placed, 1 = full."""

    address: IPv4Address
    switch: str | None
    bottleneck: str | None
    utilization: float | None
    runner_up: str | None
    runner_up_utilization: float | None
    reason: str


class Result(Model):
    """A computed assignment; nothing has been carried out."""

    strategy: str
    hmux_share: float = Field(description="share of all traffic that HMuxes carry")
    routes: int = Field(description="/32 routes in use")
    placements: tuple[Placed, ...]


class Surroundings(Protocol):
    """What the engine asks the other modules."""

    async def inventory(self) -> Inventory:
        """Return the network."""

    async def traffic(self) -> list[TrafficSample]:
        """Return the measured traffic matrix."""

    async def out_of_service(self) -> list[str]:
        """Return the switches that are out of reach."""

    async def vips(self) -> list[VipRecord]:
        """Return the wanted VIPs."""


def router(around: Surroundings) -> APIRouter:
    """Return the engine's paths."""
    api = APIRouter(prefix="/v1")
    last: dict[IPv4Address, Placed] = {}

    async def run(request: Request, records: list[VipRecord]) -> Assignment:
        inventory, traffic, broken = (
            await around.inventory(),
            await around.traffic(),
            await around.out_of_service(),
        )
        chosen = strategy(request.strategy, delta=request.delta, seed=request.seed)
        try:
            return compute(inventory, records, traffic, chosen, broken)
        except ValueError as error:
            raise InvalidError(str(error)) from error

    @api.post("/assignments", tags=["engine"], responses=problem_responses(422))
    async def compute_assignment(body: Request) -> Result:
        """Compute an assignment of every VIP from what monitoring measured."""
        records = await around.vips()
        result = _result(await run(body, records), records)
        last.clear()
        last.update({placed.address: placed for placed in result.placements})
        return result

    @api.post("/placements", tags=["engine"], responses=problem_responses(422))
    async def place(body: VipRecord) -> dict[IPv4Address, str | None]:
        """Say where one new VIP and its TIPs go, while everything else stays."""
        others = [record for record in await around.vips() if record.address != body.address]
        assignment = await run(Request(strategy=StrategyName.STICKY, delta=1.0), [*others, body])
        placement = assignment.placement()
        addresses = [body.address, *(placed.tip.address for placed in body.tips)]
        return {address: placement[str(address)] for address in addresses}

    @api.get("/explanations/{address}", tags=["engine"], responses=problem_responses(404))
    async def explain(address: IPv4Address) -> Placed:
        """Say why the last computed assignment put a VIP or TIP where it did."""
        if address not in last:
            raise UnknownError(f"no assignment that was computed names {address}: compute one first")
        return last[address]

    return api


def _result(assignment: Assignment, records: Iterable[VipRecord]) -> Result:
    """Spell an assignment out. What is held stays where it belongs, though its switch be lost or full."""
    held = [record for record in records if record.held]
    by_hand = {str(record.address): record.home for record in held}
    taken = {str(placed.tip.address): record.home for record in held for placed in record.tips}
    placements: list[Placed] = []
    by_name: Mapping[str, str | None] = assignment.placement()
    for name in by_name:
        why = assignment.explain(name)
        switch = by_hand.get(name, why.switch)
        placements.append(
            Placed(
                address=IPv4Address(name),
                switch=None if switch == taken.get(name) else switch,
                bottleneck=why.bottleneck,
                utilization=why.utilization,
                runner_up=why.runner_up,
                runner_up_utilization=why.runner_up_utilization,
                reason="an operator put it there" if name in by_hand else why.reason,
            )
        )
    return Result(
        strategy=assignment.strategy,
        hmux_share=assignment.hmux_share,
        routes=assignment.routes,
        placements=tuple(placements),
    )
