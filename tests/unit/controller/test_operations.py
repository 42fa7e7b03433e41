"""Operations that take long: how far they are, what came of them, and that they outlive who asked."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from controller.client import UpdaterClient
from controller.updater import api
from controller.updater.operations import KEPT, LongOperation, Operations, Phase, Progress
from controller.updater.outcome import Report
from controller.updater.reads import Assignment, Placement
from duet_p4.api.problems import UnknownError
from duet_p4.model import Vip
from duet_p4.rest.app import create_app
from duet_p4.rest.client import RestError
from tests.unit.controller.test_updater import VIP, Network, dips, run

REPORT = Report(done=1, writes=2, wave_ms={})


def test_an_operation_tells_how_far_it_is_and_what_came_of_it() -> None:
    async def scenario() -> None:
        operations, go_on = Operations(), asyncio.Event()

        async def work(progress: Progress) -> Report:
            progress.expect(3)
            progress.step()
            await go_on.wait()
            progress.step()
            return REPORT

        begun = operations.begin("assignment", work)
        stands = await operations.wait(begun.id, 0.01)
        assert (stands.phase, stands.done, stands.total) == (Phase.RUNNING, 1, 3)
        go_on.set()
        ended = await operations.wait(begun.id, 10)
        assert (ended.phase, ended.done, ended.report) == (Phase.DONE, 2, REPORT)
        assert ended.ended is not None and operations.list() == [ended]

    asyncio.run(scenario())


def test_one_that_fails_says_why_and_old_ones_are_forgotten() -> None:
    async def scenario() -> None:
        operations = Operations()

        async def fail(progress: Progress) -> Report:
            raise UnknownError("no switch is called x")

        first = operations.begin("assignment", fail)
        assert (await operations.wait(first.id, 10)).problem == "no switch is called x"
        for _ in range(KEPT + 1):
            await operations.wait(operations.begin("assignment", fail).id, 10)
        with pytest.raises(UnknownError, match=f"no operation {first.id}"):
            operations.get(first.id)

    asyncio.run(scenario())


def test_an_assignment_that_is_asked_for_is_watched_as_it_goes_on(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.add(Vip(address=VIP + 1, dips=dips(2)), "s1")
        net.muxes["s2"].answers.clear()
        operations = Operations()
        app = create_app("updater", access=None)
        app.include_router(api.router(net.updater, net.events, operations))
        async with UpdaterClient("http://updater", app=app) as client:
            wanted = [Placement(address=VIP, switch="s2"), Placement(address=VIP + 1, switch="s2")]
            seen: list[LongOperation] = []
            asked = asyncio.create_task(client.assign(wanted, seen.append))
            await net.until(lambda: bool(seen) and operations.get(seen[0].id).done == 2)
            (running,) = await client.operations()
            assert (running.kind, running.phase, running.total) == ("assignment", Phase.RUNNING, 4)
            net.muxes["s2"].answers.set()
            report = await asked
            assert report.failed == () and seen[-1].done == seen[-1].total == 4
            assert net.on("s2") == {str(VIP), str(VIP + 1)}
            with pytest.raises(RestError, match="no switch is called 'x'"):
                await client.assign([Placement(address=IPv4Address(VIP), switch="x")])
            body = Assignment(placements=tuple(wanted))
            again = await client.call("PUT", "/v1/assignment", Report, body=body)
            assert again.done == 0, "without a wish for less, the answer says what was done"

    run(tmp_path, scenario)
