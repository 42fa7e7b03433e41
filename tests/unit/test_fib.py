"""The mirror of the kernel's routes, over a switch that refuses."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.routes import Adjacency, Gateway, Local, RouteTables, Target
from duet_p4.hmux.rows import BackstopRow, NextHopGroupRow, NextHopRow, NextHopSlotRow, RouteRow
from duet_p4.switch_agent.fib import FibMirror
from duet_p4.switch_agent.p4client import NoDetoursError, WriteError

SIZES = {"route": 8, "backstop": 8, "nexthop_group": 8, "nexthop_slot": 32, "nexthop": 8}
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
        self.knows_detours = True
        self.detours: list[tuple[int, Sequence[Update[Any]]]] = []

    async def prepare_detour(self, port: int, updates: Sequence[Update[Any]]) -> bool:
        self.detours.append((port, updates))
        if not self.knows_detours:
            raise NoDetoursError
        return True

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


def test_detours_are_prepared_once_the_tables_stand_still_and_not_where_a_switch_knows_none() -> None:
    async def prepared(knows: bool) -> tuple[FakeSwitch, int]:
        kernel, switch = FakeKernel(), FakeSwitch()
        switch.knows_detours = knows
        fib = mirror(kernel, switch, RouteTables(SIZES))
        running = asyncio.create_task(fib.run())
        for target in (frozenset({GATEWAY}), Local.DROP):
            kernel.targets[PREFIX] = target
            kernel.on_change({PREFIX}, set())
            before = len(switch.detours)
            await fib.settled.wait()
            for _ in range(200):
                if len(switch.detours) > before or (before and not knows):
                    break
                await asyncio.sleep(0.01)
        running.cancel()
        return switch, len(switch.detours)

    switch, times = asyncio.run(prepared(True))
    assert times == 2
    port, updates = switch.detours[0]
    assert port == GATEWAY.port
    assert [(update.op, update.row.table) for update in updates] == [(Op.DELETE, RouteRow.table)]
    assert not switch.detours[1][1], "nothing leads there any more"
    assert asyncio.run(prepared(False))[1] == 1


def test_detours_are_prepared_of_ports_that_a_change_concerns_or_that_were_in_doubt() -> None:
    other = Gateway(2, IPv4Address("172.31.0.3"))
    ways = (frozenset({GATEWAY}), frozenset({GATEWAY, other}), frozenset({other}))
    _, both, two = ways

    class Kernel(FakeKernel):
        def gateways(self) -> set[Gateway]:
            return {GATEWAY, other}

    async def run() -> list[int]:
        kernel, switch = Kernel(), FakeSwitch()
        kernel.targets = {prefix(n): target for n, target in enumerate(ways)}
        fib = mirror(kernel, switch, RouteTables(SIZES))
        running = asyncio.create_task(fib.run())

        async def prepared(count: int) -> None:
            async with asyncio.timeout(10):
                while len(switch.detours) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        await prepared(2)
        kernel.targets |= {prefix(3): both, prefix(4): two}
        kernel.on_change({prefix(3), prefix(4)}, set())
        await prepared(3)
        kernel.on_change(set(), {GATEWAY})
        await prepared(4)
        running.cancel()
        return [port for port, _ in switch.detours]

    def prefix(number: int) -> IPv4Network:
        return IPv4Network((int(PREFIX.network_address) + number, 32))

    assert asyncio.run(run()) == [1, 2, 2, 1]


def test_new_prefixes_wait_the_longer_the_longer_writing_takes_and_other_changes_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("duet_p4.switch_agent.fib._REST_SHARE", 10_000)
    monkeypatch.setattr("duet_p4.switch_agent.fib._LONGEST_REST_S", 300.0)
    new = IPv4Network((int(PREFIX.network_address), 32))

    class Slow(FakeSwitch):
        async def write_plan(self, plan: Plan[Any]) -> dict[str, float]:
            await asyncio.sleep(0.05)
            return await super().write_plan(plan)

    async def run() -> None:
        kernel, switch = FakeKernel(), Slow()
        fib = mirror(kernel, switch, RouteTables(SIZES))
        running = asyncio.create_task(fib.run())
        await fib.settled.wait()
        assert switch.attempts == 1
        kernel.targets[new] = Local.DROP
        kernel.on_change({new}, set())
        await asyncio.sleep(0.05)
        assert switch.attempts == 1
        kernel.targets[PREFIX] = Local.DROP
        kernel.on_change({PREFIX}, set())
        async with asyncio.timeout(60):
            await fib.settled.wait()
        assert switch.attempts == 2
        assert {RouteRow(new, RouteRow.DROP), RouteRow(PREFIX, RouteRow.DROP)} <= switch.rows
        kernel.targets[new] = frozenset({GATEWAY})
        kernel.on_change({new}, set())
        async with asyncio.timeout(60):
            await fib.settled.wait()
        running.cancel()

    asyncio.run(run())
