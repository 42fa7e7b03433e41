"""The whole controller over real muxes' REST interface: three modules in one process, on real sockets."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI

from controller.app import running
from controller.client import ControllerClient
from controller.config import ControllerConfig, Intervals, Listen, Module
from controller.engine.live.api import AssignmentRequest
from controller.inventory import Inventory, Link, Role, Server, SMux, Switch
from controller.reach import Reach
from controller.updater.reads import Placement
from duet_p4.api.mux import MuxStatus, SessionStatus
from duet_p4.api.service import State
from duet_p4.model import Dip, Vip
from duet_p4.rest import problems
from duet_p4.rest.client import RefusedError, UnreachableError
from duet_p4.rest.server import serve
from duet_p4.telemetry import TelemetryConfig
from mininet_topos.cli import main
from tests.unit.controller.memory_mux import MemoryMux, served

VIP = IPv4Address("10.0.0.1")
SWITCHES = {"tor1": Role.TOR, "tor2": Role.TOR, "agg1": Role.AGG, "core1": Role.CORE}


def dips(count: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.1.1.1") + i) for i in range(count))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - the state is another process's to tell
            await asyncio.sleep(0.02)


class Testbed:
    __test__ = False

    def __init__(
        self,
        muxes: dict[str, MemoryMux],
        servers: dict[str, AsyncExitStack],
        urls: dict[str, str],
        url: str,
        socket: Path,
        client: ControllerClient,
    ) -> None:
        self.muxes = muxes
        self.servers = servers
        self.urls = urls
        self.url = url
        self.socket = socket
        self.client = client

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        await until(condition)

    def cut_off(self, name: str) -> None:
        """Have no neighbour a BGP session with a switch any more."""
        for mux in self.muxes.values():
            mux.sessions = tuple(session for session in mux.sessions if session.name != name)

    async def serve_again(self, name: str) -> None:
        """Have a mux that was closed answer where it did."""
        port = int(self.urls[name].rsplit(":", 1)[1])
        await self.servers[name].enter_async_context(served(self.muxes[name], port))

    async def ready(self) -> bool:
        agents = await self.client.agents()
        return all(agent.reach == "ready" for agent in agents)


def inventory_of(urls: dict[str, str]) -> Inventory:
    return Inventory(
        switches=tuple(
            Switch(
                name=name,
                role=role,
                agent=urls[name],
                container=None if role is Role.CORE else 1,
                loopback=IPv4Address("172.30.0.1"),
            )
            for name, role in SWITCHES.items()
        ),
        smuxes=(SMux(name="smux1", agent=urls["smux1"], switch="tor1", address=IPv4Address("172.30.0.9")),),
        links=tuple(
            Link(ends=ends, capacity_bps=1e9)
            for ends in (("tor1", "agg1"), ("tor2", "agg1"), ("agg1", "core1"))
        ),
        vip_prefix=IPv4Network("10.0.0.0/16"),
        tip_prefix=IPv4Network("20.0.0.0/24"),
    )


def session_with(name: str) -> SessionStatus:
    return SessionStatus(
        name=name, neighbor=IPv4Address("172.31.0.1"), asn=1, established=True, state="Established"
    )


@asynccontextmanager
async def controlled(path: Path, telemetry: TelemetryConfig | None = None) -> AsyncIterator[Testbed]:
    async with AsyncExitStack() as stack:
        muxes = {name: MemoryMux(name) for name in [*SWITCHES, "smux1"]}
        servers = {name: await stack.enter_async_context(AsyncExitStack()) for name in muxes}
        urls = {name: await servers[name].enter_async_context(served(mux)) for name, mux in muxes.items()}
        inventory = inventory_of(urls)
        for one, other in [*(link.ends for link in inventory.links), ("tor1", "smux1")]:
            muxes[one].sessions += (session_with(other),)
            muxes[other].sessions += (session_with(one),)
        (path / "inventory.json").write_text(inventory.model_dump_json())
        config = ControllerConfig(
            database=path / "controller.db",
            inventory=path / "inventory.json",
            listen=Listen(port=0),
            socket=path / "controller.sock",
            insecure=True,
            telemetry=telemetry or TelemetryConfig(),
            intervals=Intervals(health=0.05, repair=0.05, assignment=None),
            switch_hold_s=0.2,
        )
        url = await stack.enter_async_context(running(config))
        client = ControllerClient("http://controller", local=config.socket)
        await stack.enter_async_context(client)
        testbed = Testbed(muxes, servers, urls, url, path / "controller.sock", client)
        await testbed.until(testbed.ready)
        yield testbed


def run(path: Path, scenario: Callable[[Testbed], Awaitable[None]]) -> None:
    async def main() -> None:
        async with controlled(path) as testbed:
            await scenario(testbed)

    asyncio.run(main())


def test_the_engine_places_a_new_vip_and_explains_an_assignment(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        record = await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        assert record.switch in SWITCHES
        assert VIP in testbed.muxes[record.switch].held and VIP in testbed.muxes["smux1"].held
        result = await testbed.client.compute(AssignmentRequest(strategy="greedy"))
        (placed,) = result.placements
        explained = await testbed.client.explain(VIP)
        assert (explained.name, explained.switch) == (str(placed.address), placed.switch)
        assert "table of" in (explained.bottleneck or "")

    run(tmp_path, scenario)


def test_a_vip_placed_by_hand_is_explained_by_that(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)), "agg1")
        await testbed.client.compute(AssignmentRequest(strategy="greedy"))
        placed = await testbed.client.explain(VIP)
        assert (placed.switch, placed.reason) == ("agg1", "an operator put it there")
        await testbed.client.release(VIP)
        await testbed.client.compute(AssignmentRequest(strategy="greedy"))
        assert "operator" not in (await testbed.client.explain(VIP)).reason

    run(tmp_path, scenario)


def test_an_assignment_leaves_a_vip_by_hand_to_wait_for_its_switch(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(500)), "agg1")
        other = Vip(address=VIP + 1, dips=dips(1000)[500:])
        testbed.muxes["agg1"].size = 510
        waiting = await testbed.client.add_vip(other, "agg1")
        assert (waiting.switch, waiting.returning) == (None, "agg1")
        result = await testbed.client.compute(AssignmentRequest(strategy="greedy"))
        await testbed.client.assign(Placement(address=p.address, switch=p.switch) for p in result.placements)
        waiting = await testbed.client.vip(other.address)
        assert (waiting.switch, waiting.returning, waiting.held) == (None, "agg1", True)

    run(tmp_path, scenario)


def test_a_vip_of_more_dips_than_a_table_holds_is_placed_with_its_tips(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        record = await testbed.client.add_vip(Vip(address=VIP, dips=dips(1000)))
        assert len(record.tips) == 2 and all(tip.switch in SWITCHES for tip in record.tips)
        assert len({tip.switch for tip in record.tips}) == 2, "512 entries of a switch do not hold two TIPs"

    run(tmp_path, scenario)


def test_a_lost_switch_gives_its_vips_to_another_and_is_cleaned_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        await testbed.client.assign([Placement(address=VIP, switch="tor1")])
        await testbed.servers["tor1"].aclose()
        testbed.cut_off("tor1")

        async def moved() -> bool:
            record = await testbed.client.vip(VIP)
            return record.switch not in (None, "tor1") and VIP in testbed.muxes[str(record.switch)].held

        await testbed.until(moved)
        await testbed.serve_again("tor1")

        async def cleaned() -> bool:
            return VIP not in testbed.muxes["tor1"].held

        await testbed.until(cleaned)
        kinds = [event.kind for event in await testbed.client.events()]
        assert "device-lost" in kinds and "device-back" in kinds

    run(tmp_path, scenario)


def test_a_switch_whose_agent_alone_is_dead_keeps_its_vips(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        await testbed.client.assign([Placement(address=VIP, switch="tor1")])
        agg = testbed.muxes["agg1"]
        asked = agg.asked
        await testbed.servers["tor1"].aclose()

        async def asked_again() -> bool:
            return agg.asked >= asked + 3

        async def gone() -> bool:
            return (await testbed.client.vip(VIP)).switch != "tor1"

        await testbed.until(asked_again)
        assert not await gone()
        testbed.cut_off("tor1")
        await testbed.until(gone)

    run(tmp_path, scenario)


def test_a_vip_placed_by_hand_waits_for_its_lost_switch(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)), "tor1")
        await testbed.servers["tor1"].aclose()
        testbed.cut_off("tor1")

        async def waits() -> bool:
            waiting = await testbed.client.vip(VIP)
            return (waiting.switch, waiting.returning) == (None, "tor1")

        await testbed.until(waits)
        testbed.muxes["tor1"].forget()
        await testbed.serve_again("tor1")

        async def back() -> bool:
            return VIP in testbed.muxes["tor1"].held

        await testbed.until(back)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"address": "10.0.0.1", "dips": [{"address": "100.1.1.1"}], "colour": "red"}, 422, "colour"),
        ({"address": "10.0.0.300", "dips": [{"address": "100.1.1.1"}]}, 422, "10.0.0.300"),
        ({"address": "10.0.0.1", "dips": [{"address": "2001:db8::7"}]}, 422, "2001:db8::7"),
        ({"address": "192.0.2.1", "dips": [{"address": "100.1.1.1"}]}, 422, "192.0.2.1"),
        ({"address": "10.0.0.1", "dips": [{"address": "10.0.0.2"}]}, 422, "10.0.0.2"),
        ({"address": "10.0.0.1", "dips": [{"address": "224.0.0.1"}]}, 422, "224.0.0.1"),
        ({"address": "10.0.0.1", "dips": [{"address": "255.255.255.255"}]}, 422, "255.255.255.255"),
        ({"address": "10.0.0.9", "dips": [{"address": "100.1.1.1"}]}, 409, "10.0.0.9"),
    ],
)
def test_a_bad_vip_is_a_problem_that_names_the_value_and_changes_nothing(
    tmp_path: Path, body: dict[str, object], status: int, named: str
) -> None:
    async def scenario(testbed: Testbed) -> None:
        before = await testbed.client.add_vip(Vip(address=IPv4Address("10.0.0.9"), dips=dips(2)))
        async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
            reply = await client.post("/v1/vips", json=body)
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert named in reply.text
        assert await testbed.client.vips() == [before]

    run(tmp_path, scenario)


def test_events_can_be_followed_as_they_happen(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(testbed.socket))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
            client.stream("GET", "/v1/events/stream") as stream,
        ):
            await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
            async with asyncio.timeout(10):
                async for line in stream.aiter_lines():
                    if line.startswith("data: ") and json.loads(line[6:])["kind"] == "vip-added":
                        return

    run(tmp_path, scenario)


def test_draining_the_last_dip_is_refused(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        drained = await testbed.client.drain(VIP, dips(1)[0].address)
        assert drained.layout.group is not None
        assert [dip.address for dip in drained.layout.group.used()] == [dips(2)[1].address]
        with pytest.raises(RefusedError, match="the last one"):
            await testbed.client.drain(VIP, dips(2)[1].address)

    run(tmp_path, scenario)


def test_an_smux_is_drained_and_no_longer_and_the_audit_log_says_so(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        client, smux = testbed.client, testbed.muxes["smux1"]

        def duet(*words: str) -> Result:
            return CliRunner().invoke(main, ["drain", *words, "--socket", str(testbed.socket)])

        said = await asyncio.to_thread(duet, "smux1")
        assert said.output == "smux1 is drained: others are preferred to it\n"
        assert smux.draining

        async def seen() -> bool:
            await client.call("GET", "/v1/muxes", list[MuxStatus])  # has it look
            return (await client.network()).draining == ("smux1",)

        await testbed.until(seen)
        status = ["status", "--socket", str(testbed.socket)]
        assert "preferred: smux1" in (await asyncio.to_thread(CliRunner().invoke, main, status)).output
        said = await asyncio.to_thread(duet, "smux1", "--end", "--json")
        assert json.loads(said.output) == {"smux": "smux1", "draining": False}
        assert not smux.draining
        for name in ("tor1", "smux9"):
            said = await asyncio.to_thread(duet, name)
            assert (said.exit_code, name in said.output) == (1, True), said.output
            assert "there are smux1" in said.output
        smux.away = True
        said = await asyncio.to_thread(duet, "smux1")
        assert (said.exit_code, "smux1 is away" in said.output) == (1, True), said.output

        async def audit() -> list[dict[str, Any]]:
            noted = [event for event in await client.audit() if event.subject == "smux1"]
            return [cast(dict[str, Any], event.detail) for event in noted]

        async def told() -> bool:
            return len(await audit()) == 2

        await testbed.until(told)
        changes = await audit()
        assert [(change["before"], change["after"]) for change in changes] == [
            ({"draining": False}, {"draining": True}),
            ({"draining": True}, {"draining": False}),
        ]

    run(tmp_path, scenario)


def test_metrics_are_in_the_prometheus_format(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        record = await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
            text = (await client.get("/metrics")).text
        assert f'duet_vips{{switch="{record.switch}"}} 1.0' in text

    run(tmp_path, scenario)


def test_each_module_can_be_a_process_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            muxes = {name: MemoryMux(name) for name in [*SWITCHES, "smux1"]}
            urls = {name: await stack.enter_async_context(served(mux)) for name, mux in muxes.items()}
            (tmp_path / "inventory.json").write_text(inventory_of(urls).model_dump_json())
            ports = dict(zip(Module, free_ports(len(Module)), strict=True))
            found = {module: f"http://127.0.0.1:{port}" for module, port in ports.items()}
            clients = {
                module: await stack.enter_async_context(ControllerClient(url))
                for module, url in found.items()
            }
            for module, port in ports.items():
                config = ControllerConfig(
                    database=tmp_path / f"{module}.db",
                    inventory=tmp_path / "inventory.json",
                    listen=Listen(port=port),
                    insecure=True,
                    elsewhere=found,
                    intervals=Intervals(health=0.05, assignment=None),
                )
                file = tmp_path / f"{module}.json"
                file.write_text(config.model_dump_json())
                await stack.enter_async_context(
                    process("controller", "--only", module, "--config", str(file))
                )
            for module, client in clients.items():
                await until(partial(answers, client))
                document = await client.call("GET", "/openapi.json", dict[str, Any])
                tags = {
                    tag for path in document["paths"].values() for way in path.values() for tag in way["tags"]
                }
                assert tags & set(Module) == {module} & tags, f"{module} serves {sorted(tags)}"
            record = await clients[Module.UPDATER].add_vip(Vip(address=VIP, dips=dips(2)))
            assert record.switch in SWITCHES, "the engine was not asked"
            assert {name for name, mux in muxes.items() if VIP in mux.held} == {record.switch, "smux1"}

    asyncio.run(scenario())


def test_a_request_that_needs_a_module_that_is_away_is_unavailable_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        (tmp_path / "inventory.json").write_text(
            inventory_of(dict.fromkeys([*SWITCHES, "smux1"], "http://x")).model_dump_json()
        )
        away = f"http://127.0.0.1:{free_ports(1)[0]}"
        config = ControllerConfig(
            database=tmp_path / "controller.db",
            inventory=tmp_path / "inventory.json",
            listen=Listen(port=0),
            modules=(Module.UPDATER,),
            elsewhere={Module.ENGINE: away, Module.MONITORING: away},
            insecure=True,
        )
        async with running(config) as url, ControllerClient(url) as client:
            with pytest.raises(RefusedError, match=f"503.*{away}"):
                await client.add_vip(Vip(address=VIP, dips=dips(2)))
            assert await client.vips() == []

    asyncio.run(scenario())


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[None]:
    running = await asyncio.create_subprocess_exec(sys.executable, "-m", "mininet_topos.cli", *command)
    try:
        yield
    finally:
        running.terminate()
        assert await running.wait() == 0


async def answers(client: ControllerClient) -> bool:
    try:
        return (await client.health()).state is State.READY
    except UnreachableError:
        return False


def test_one_odd_answer_of_an_agent_ends_nothing_and_says_so(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        port = int(testbed.urls["tor1"].rsplit(":", 1)[1])
        await testbed.servers["tor1"].aclose()
        odd = FastAPI()

        @odd.get("/healthz")
        async def healthz() -> dict[str, str]:
            return {"mood": "odd"}

        async def reach(name: str, reach: Reach) -> bool:
            agents = {agent.name: agent.reach for agent in await testbed.client.agents()}
            return agents[name] is reach

        async with serve(odd, "127.0.0.1", port, None):
            await testbed.until(partial(reach, "tor1", Reach.UNREACHABLE))
            await testbed.servers["core1"].aclose()
            await testbed.until(partial(reach, "core1", Reach.UNREACHABLE))
        await testbed.serve_again("tor1")
        await testbed.until(partial(reach, "tor1", Reach.READY))
        assert (await testbed.client.health()).state is State.READY

    run(tmp_path, scenario)


def test_a_bug_in_one_module_is_an_answer_to_another(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        app = FastAPI()

        @app.get("/v1/network")
        async def broken() -> None:
            raise KeyError("bug")

        problems.install(app)
        async with ControllerClient("http://controller", app=app) as client:
            with pytest.raises(RefusedError, match=r"500.*KeyError: 'bug'"):
                await client.network()

    run(tmp_path, scenario)


def test_ten_additions_of_a_dip_at_once_all_stay(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        command = [sys.executable, "-m", "mininet_topos.cli", "vip", "change", str(VIP), "--socket"]
        command += [str(testbed.socket), "--add"]
        running = [
            await asyncio.create_subprocess_exec(
                *command, str(dip.address), stdout=asyncio.subprocess.DEVNULL
            )
            for dip in dips(8)[2:]
        ]
        assert [await process.wait() for process in running] == [0] * 6
        assert set((await testbed.client.vip(VIP)).spec.dips) == set(dips(8))

    run(tmp_path, scenario)


def test_a_change_of_an_old_revision_is_refused_and_every_answer_has_a_tag(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)))
        async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
            tag = (await client.get(f"/v1/vips/{VIP}")).headers["etag"]
            body = Vip(address=VIP, dips=dips(3)).model_dump(mode="json")
            changed = await client.put(f"/v1/vips/{VIP}", json=body, headers={"If-Match": tag})
            assert changed.status_code == 200 and changed.headers["etag"] != tag
            stale = await client.delete(f"/v1/vips/{VIP}", headers={"If-Match": tag})
            assert stale.status_code == 412 and stale.json()["type"].endswith(":revision-differs")
            odd = await client.delete(f"/v1/vips/{VIP}", headers={"If-Match": "yesterday"})
            assert odd.status_code == 422 and "yesterday" in odd.text
        assert (await testbed.client.vip(VIP)).spec.dips == dips(3)

    run(tmp_path, scenario)


def test_lists_come_in_pages_and_by_switch_and_dip(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        for number in range(5):
            await testbed.client.add_vip(Vip(address=VIP + number, dips=dips(number + 1)), "agg1")
        async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
            query: dict[str, str | int] = {"limit": 2, "after": str(VIP + 1)}
            page = (await client.get("/v1/vips", params=query)).json()
        assert [record["spec"]["address"] for record in page] == [str(VIP + 2), str(VIP + 3)]
        assert len(await testbed.client.vips(switch="agg1")) == 5
        assert await testbed.client.vips(switch="smux") == []
        assert [r.address for r in await testbed.client.vips(dip=dips(5)[4].address)] == [VIP + 4]

    run(tmp_path, scenario)


def test_it_is_said_why_a_vip_is_where_it_is(tmp_path: Path) -> None:
    async def scenario(testbed: Testbed) -> None:
        testbed.muxes["agg1"].size = 0
        await testbed.client.add_vip(Vip(address=VIP, dips=dips(2)), "agg1")
        why = await testbed.client.why(VIP)
        assert why.returning == "agg1"
        assert why.reasons[0] == f"VIP {VIP} is on the SMuxes, waiting for agg1: an operator put it there"
        assert why.waits_for == (f"{VIP}: agg1 to have room",)
        status = await testbed.client.status()
        assert status.waiting == {VIP: "agg1"} and status.vips == 1
        async with httpx.AsyncClient(base_url=testbed.url, trust_env=False) as client:
            metrics = (await client.get("/metrics")).text
        assert 'duet_job_ok{task="reconcile"} 1.0' in metrics and "duet_queue_depth" in metrics

    run(tmp_path, scenario)


def test_what_comes_into_the_inventory_is_used_and_what_is_not_used_can_go_without_a_restart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "inventory.json"

    async def scenario(testbed: Testbed) -> None:
        whole = Inventory.from_file(path)
        without = whole.model_copy(
            update={
                "switches": tuple(switch for switch in whole.switches if switch.name != "tor2"),
                "links": tuple(link for link in whole.links if "tor2" not in link.ends),
            }
        )
        client, muxes = testbed.client, testbed.muxes

        async def names() -> set[str]:
            return {device.name for device in await client.devices()}

        await client.add_vip(Vip(address=VIP, dips=dips(2)), "tor2")
        path.write_text(without.model_dump_json())

        async def refused() -> bool:
            return (
                "tor2 is the home of 1 VIPs and TIPs, 10.0.0.1 among them" in (await client.health()).detail
            )

        await testbed.until(refused)
        assert "tor2" in await names()
        assert VIP in muxes["tor2"].announced

        await client.migrate(VIP, "tor1")

        async def gone() -> bool:
            return "tor2" not in await names()

        await testbed.until(gone)
        assert "tor2" not in {agent.name for agent in await client.agents()}
        with pytest.raises(RefusedError, match="no switch is called 'tor2'"):
            await client.migrate(VIP, "tor2")

        second = muxes["smux2"] = MemoryMux("smux2")
        url = await testbed.servers["smux1"].enter_async_context(served(second))
        smux = SMux(name="smux2", agent=url, switch="tor2", address=IPv4Address("172.30.0.10"))
        path.write_text(whole.model_copy(update={"smuxes": (*whole.smuxes, smux)}).model_dump_json())

        async def filled() -> bool:
            return second.held.keys() == {VIP}

        await testbed.until(filled)
        await testbed.until(testbed.ready)
        await client.migrate(VIP, "tor2")
        assert [name for name in SWITCHES if VIP in muxes[name].announced] == ["tor2"]
        placed = await client.compute(AssignmentRequest())
        assert {(place.address, place.switch) for place in placed.placements} == {(VIP, "tor2")}

        again = Inventory.from_file(path)
        server = Server(name="server1", agent=url, switch="tor1", dips=tuple(dip.address for dip in dips(2)))
        path.write_text(again.model_copy(update={"servers": (server,)}).model_dump_json())

        async def served_by_a_server() -> bool:
            return "server1" in await names()

        await testbed.until(served_by_a_server)
        path.write_text(again.model_dump_json())

        async def needed() -> bool:
            return "server1 has DIP 100.1.1.1 of VIP 10.0.0.1" in (await client.health()).detail

        await testbed.until(needed)
        assert "server1" in await names()
        changed = [event.detail for event in await client.events() if event.kind == "inventory-changed"]
        assert changed == [
            {"added": [], "removed": ["tor2"]},
            {"added": ["smux2", "tor2"], "removed": []},
            {"added": ["server1"], "removed": []},
        ]

    run(tmp_path, scenario)
