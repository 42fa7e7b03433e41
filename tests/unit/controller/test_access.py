"""Who may tell the controller what: over mutual TLS, with an inventory that knows its servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from controller.app import running
from controller.client import ControllerClient
from controller.config import ControllerConfig, Intervals, Listen
from controller.inventory import Server
from controller.monitoring.service import CheckedDip
from duet_p4.api.health import DipHealth, HealthReport
from duet_p4.api.ports import PortReport
from duet_p4.identity import Authority, Credentials, Identity, Role
from duet_p4.model import Dip, Vip
from duet_p4.rest.client import RefusedError
from tests.unit.controller.test_app import SWITCHES, VIP, inventory_of

OWN, OTHER, VM = IPv4Address("100.1.1.1"), IPv4Address("100.1.1.2"), IPv4Address("100.9.9.9")
WHO = {
    "controller": Role.CONTROLLER,
    "operator": Role.OPERATOR,
    "reader": Role.READER,
    "tor1": Role.SWITCH,
    "smux1": Role.SMUX,
    "server1": Role.SERVER,
    "server2": Role.SERVER,
}


@asynccontextmanager
async def controlled(path: Path) -> AsyncIterator[Callable[[str], ControllerClient]]:
    """Run a controller whose devices are all away; yields what makes clients of somebody."""
    authority = Authority()
    for name, role in WHO.items():
        authority.issue(path / name, Identity(role, name), [IPv4Address("127.0.0.1")])
    inventory = inventory_of(dict.fromkeys([*SWITCHES, "smux1"], "https://127.0.0.1:1"))
    servers = tuple(
        Server(name=f"server{n}", agent="https://127.0.0.1:1", switch="tor1", dips=(dip,))
        for n, dip in ((1, OWN), (2, OTHER))
    )
    (path / "inventory.json").write_text(inventory.model_copy(update={"servers": servers}).model_dump_json())
    config = ControllerConfig(
        database=path / "controller.db",
        inventory=path / "inventory.json",
        listen=Listen(port=0),
        credentials=path / "controller",
        intervals=Intervals(assignment=None),
    )
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(config))
        made: list[ControllerClient] = []

        def client(name: str) -> ControllerClient:
            one = ControllerClient(url, credentials=Credentials(path / name))
            made.append(one)
            return one

        try:
            yield client
        finally:
            for one in made:
                await one.close()


def report(reporter: str, dip: IPv4Address, up: bool = False) -> HealthReport:
    health = DipHealth(vip=VIP, dip=dip, up=up, since=datetime.now(UTC), checks=1)
    return HealthReport(reporter=reporter, dips=(health,))


def test_each_reports_for_itself_alone_and_only_operators_change_vips(tmp_path: Path) -> None:
    async def refused(asked: Awaitable[object], why: str) -> None:
        with pytest.raises(RefusedError, match=f"403.*{why}"):
            await asked

    async def scenario() -> None:
        async with controlled(tmp_path) as client:
            operator = client("operator")
            dips = (Dip(address=OWN), Dip(address=OTHER), Dip(address=VM, host=OTHER))
            await operator.add_vip(Vip(address=VIP, dips=dips))

            async def left_out() -> dict[IPv4Address, bool]:
                return {
                    checked.dip: checked.up
                    for checked in await operator.call("GET", "/v1/dips", list[CheckedDip])
                }

            async def tell(who: str, said: HealthReport | PortReport) -> None:
                path = "health" if isinstance(said, HealthReport) else "ports"
                await client(who).call("POST", f"/v1/reports/{path}", type(None), body=said)

            await tell("server1", report("server1", OWN))
            assert await left_out() == {OWN: False}
            await tell("server1", report("server1", OWN, up=True))
            await refused(tell("server1", report("server2", OTHER)), "in the name of 'server2'")
            await refused(tell("server1", report("smux1", OTHER)), "in the name of 'smux1'")
            await refused(tell("server1", report("server1", OTHER)), "which is server2's")
            await refused(tell("tor1", report("server1", OWN)), "switch tor1 may not POST")
            await refused(tell("operator", report("server1", OWN)), "operator operator may not POST")
            await tell("server1", report("server1", VM))
            assert VM not in await left_out(), "a VM's health is for its own server to say"
            await tell("server2", report("server2", VM))
            assert await left_out() == {VM: False}, "server1 has said nothing of its own any more"
            await tell("smux1", report("smux1", OTHER))
            assert (await left_out())[OTHER] is False

            await refused(tell("smux1", PortReport(switch="tor1", ports=())), "smux smux1 may not POST")
            await refused(tell("tor1", PortReport(switch="tor2", ports=())), "in the name of 'tor2'")
            await tell("tor1", PortReport(switch="tor1", ports=()))

            await client("controller").change_vip(Vip(address=VIP, dips=dips[:2]))

            async def stated() -> list[tuple[str, int, list[str], list[str]]]:
                """Return by whom, at which revision, and of what there was one before and one after."""
                return [
                    (d["actor"], d["revision"], sorted(d["before"]), sorted(d["after"]))
                    for event in await client("reader").audit()
                    for d in [cast(dict[str, Any], event.detail)]
                ]

            while len(await stated()) < 2:  # noqa: ASYNC110 - events are stored by another task
                await asyncio.sleep(0.02)
            assert await stated() == [
                ("operator operator", 1, [], ["dips"]),
                ("controller controller", 2, ["dips"], ["dips"]),
            ]
            await operator.note("smux1", {"draining": False}, {"draining": True})
            await operator.set_one_dip_health(VIP, OTHER, up=True)
            while len(await stated()) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            last = (await client("reader").audit())[-2:]
            assert [(event.subject, event.detail["actor"]) for event in last] == [
                ("smux1", "operator operator"),
                (f"{VIP} {OTHER}", "operator operator"),
            ]
            assert last[0].detail["before"] == {"draining": False}
            assert last[0].detail["after"] == {"draining": True}
            await client("controller").set_dip_health(VIP, {OTHER: False})
            await operator.set_dip_health(VIP, {OTHER: True, OWN: True})
            await operator.set_dip_health(VIP, {OTHER: True})
            while len(await stated()) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            by_hand = cast(dict[str, Any], (await client("reader").audit())[4:][-1].detail)
            assert by_hand["actor"] == "operator operator", "what monitoring says is no statement"
            assert by_hand["before"] == {str(OTHER): False}
            assert by_hand["after"] == {str(OTHER): True}

            for name in ("reader", "tor1", "smux1", "server1"):
                await refused(client(name).note("tor1", {}, {}), f"{name} may not POST")

            for name in ("reader", "tor1", "smux1", "server1"):
                await refused(client(name).remove_vip(VIP), f"{name} may not DELETE")
                await refused(client(name).set_dip_health(VIP, {OWN: False}), f"{name} may not PUT")
                if name != "reader":
                    await refused(client(name).vips(), f"{name} may not GET")
            assert [record.address for record in await client("reader").vips()] == [VIP]

    asyncio.run(scenario())
