"""The mirror of the kernel's routes, over a switch that refuses."""

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from duet_p4.hmux.plan import Plan
from duet_p4.hmux.routes import Adjacency, Gateway, Local, RouteSizes, RouteTables, Target
from duet_p4.hmux.rows import BackstopRow, NextHopGroupRow, NextHopRow, NextHopSlotRow, RouteRow
from duet_p4.switch_agent.fib import FibMirror
from duet_p4.switch_agent.p4client import WriteError

SIZES = RouteSizes(route=8, backstop=8, nexthop_group=8, nexthop_slot=32, nexthop=8)
GATEWAY = Gateway(1, IPv4Address("172.31.0.1"))
PREFIX = IPv4Network("10.0.0.0/16")


class FakeKernel:
    """One route over one neighbour."""

    def __init__(self) -> None:
        self.on_change: Callable[[set[IPv4Network], set[Gateway]], None] = lambda prefixes, gateways: None
        self.targets: dict[IPv4Network, Target] = {PREFIX: frozenset({GATEWAY})}

    def prefixes(self) -> set[IPv4Network]:
        return set(self.targets)

    def gateways(self) -> set[Gateway]:
        return {GATEWAY}

    def target(self, prefix: IPv4Network) -> Target | None:
        return self.targets.get(prefix)

    def adjacency(self, gateway: Gateway) -> Adjacency | None:
        return Adjacency(1, 2, 1500)


class FakeSwitch:
    """Takes nothing for the first `refusals` writes."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.attempts = 0
        self.rows: set[object] = set()

    async def write_plan(self, plan: Plan[Any]) -> dict[str, float]:
        self.attempts += 1
        if self.refusals:
            self.refusals -= 1
            raise WriteError("the switch refuses it", [])
        for update in plan:
            self.rows.add(update.row)
        return {}


def mirror(kernel: FakeKernel, switch: FakeSwitch, tables: RouteTables) -> FibMirror:
    known: Any = kernel
    written: Any = switch
    return FibMirror(known, tables, written)


def test_routes_that_are_refused_are_not_settled_but_said_and_tried_again_later_each_time() -> None:
    async def run() -> None:
        switch = FakeSwitch(refusals=3)
        fib = mirror(FakeKernel(), switch, RouteTables(SIZES))
        running = asyncio.create_task(fib.run())
        loop = asyncio.get_running_loop()
        started = loop.time()
        while switch.attempts < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not fib.settled.is_set()
        assert "the switch does not take the kernel's routes: the switch refuses it" in fib.problem
        async with asyncio.timeout(5):
            await fib.settled.wait()
        assert loop.time() - started >= 0.1 + 0.2 + 0.4, "each time it waits twice as long"
        assert fib.problem == ""
        assert any(isinstance(row, RouteRow) and row.prefix == PREFIX for row in switch.rows)
        running.cancel()

    asyncio.run(run())


def test_prefixes_without_room_are_said() -> None:
    async def run() -> None:
        kernel = FakeKernel()
        kernel.targets |= {IPv4Network((0x0B000000 + n, 32)): Local.DROP for n in range(8)}
        fib = mirror(kernel, FakeSwitch(), RouteTables(SIZES))
        running = asyncio.create_task(fib.run())
        async with asyncio.timeout(5):
            await fib.settled.wait()
        assert "no room for the routes to 11.0.0.7/32" in fib.problem
        running.cancel()

    asyncio.run(run())


def test_the_backstop_of_a_port_that_is_no_uplink_any_more_is_removed() -> None:
    rows = [
        NextHopRow(0, 1, 1, 2, 1500),
        NextHopSlotRow(0, 0),
        NextHopGroupRow(0, 0, 1),
        RouteRow(PREFIX, 0),
        BackstopRow(3, 0),
    ]
    tables = RouteTables(SIZES, rows)
    tables.want({PREFIX: frozenset({GATEWAY})})
    tables.reach({GATEWAY: Adjacency(1, 2, 1500)})
    assert [update.row for update in tables.plan()] == [BackstopRow(3, 0)]
