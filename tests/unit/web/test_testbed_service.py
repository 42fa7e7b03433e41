"""The testbed's part of the page, as far as it goes without a testbed that is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from controller.web import gateway
from controller.web.addresses import new_address
from controller.web.sessions import Rights
from mininet_topos.testbed import folder as folder_module
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.web import __main__ as web


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(folder_module, "ROOT", tmp_path)
    folder = Folder("dt")
    folder.create()
    folder.plan.write_text(Plan(controllers=0, page=True).model_dump_json())
    folder.log("tor1", "agent").write_text("first\nlast\n")
    return folder


def run(folder: Folder, rights: Rights, scenario: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        listener = gateway.bind(0)
        server = asyncio.create_task(web._serve(folder, listener))
        try:
            # Some start a command, which on a busy machine takes its time.
            async with asyncio.timeout(90):
                while not folder.web_socket.exists():  # noqa: ASYNC110 - another task makes it
                    await asyncio.sleep(0.01)
                address = await new_address(folder.web_socket, rights)
                url = address.partition("/?")[0]
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=90) as browser:
                    assert (await browser.get(address)).status_code == 303
                    await scenario(browser)
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)

    asyncio.run(main())


def test_nodes_ports_and_logs_are_told(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        assert (await browser.get("/session")).json() == {"rights": "operator", "testbed": "dt"}
        nodes = {node["name"]: node for node in (await browser.get("/testbed/v1/layout")).json()["nodes"]}
        assert nodes["tor1"]["ports"]["eth1"] == "agg1"
        assert nodes["outside"]["container"] is None
        logs = await browser.get("/testbed/v1/nodes/tor1/logs?lines=1")
        assert logs.json() == [{"name": "tor1.agent.log", "lines": ["last"]}]

    run(folder, Rights.OPERATOR, scenario)


def test_what_is_not_there_is_named(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        for path, status, says in (
            ("/testbed/v1/nodes/tor9/logs", 404, "'tor9'"),
            ("/testbed/v1/nodes/..%2fetc/logs", 404, ""),
            ("/testbed/v1/nodes/tor1/capture?port=eth99", 404, "eth1"),
            ("/testbed/v1/nodes/tor1/capture?port=eth1&seconds=0", 422, "seconds"),
            ("/testbed/v1/shells/7/output", 409, "no shell 7"),
            ("/v1/status", 502, "no controller"),
        ):
            reply = await browser.get(path)
            assert (reply.status_code, says in reply.text) == (status, True), (path, reply.text)
        failed = await browser.post("/testbed/v1/fail", json={"what": "tor1"})
        assert failed.status_code == 409
        assert "no testbed named 'dt' is up" in failed.json()["detail"]

    run(folder, Rights.OPERATOR, scenario)


def test_a_reader_may_not_capture_nor_read_shells(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        assert (await browser.get("/testbed/v1/layout")).status_code == 200
        for path in ("/testbed/v1/nodes/client1/capture?port=eth1", "/testbed/v1/shells/1/output"):
            assert (await browser.get(path)).status_code == 403, path
        for path in ("/testbed/v1/fail", "/testbed/v1/nodes/client1/shells"):
            assert (await browser.post(path, json={"what": "tor1"})).status_code == 403, path

    run(folder, Rights.READER, scenario)


def test_sources_are_told_by_the_names_that_steps_have_for_them(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        for kind, file, line in (
            ("switch", "ecmp.p4", "control Ecmp("),
            ("smux", "smux.bpf.c", 'SEC("xdp")'),
            ("server", "inbound.h", "#"),
        ):
            reply = await browser.get(f"/testbed/v1/sources/{kind}?file={file}")
            assert any(text.startswith(line) for text in reply.json()["lines"]), (kind, file)
        for kind, file in (("switch", "../README.md"), ("switch", "smux.bpf.c"), ("smux", "ecmp.p4")):
            reply = await browser.get(f"/testbed/v1/sources/{kind}?file={file}")
            assert (reply.status_code, file in reply.text) == (404, True)

    run(folder, Rights.READER, scenario)


def test_a_trace_says_why_it_cannot_be(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        wanted = {"client": "client1", "vip": "10.0.0.1"}
        reply = await browser.post("/testbed/v1/traces", json=wanted | {"port": 0})
        assert (reply.status_code, "port" in reply.text) == (422, True)
        reply = await browser.post("/testbed/v1/traces", json=wanted)
        assert reply.status_code == 409
        assert "no testbed named 'dt' is up" in reply.json()["detail"]

    run(folder, Rights.OPERATOR, scenario)


def test_an_experiment_is_run_and_told_of_until_its_end(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        known = {
            one["name"]: one for one in (await browser.get("/testbed/v1/experiments")).json()["experiments"]
        }
        assert {"failover", "migration", "attacks"} < set(known)
        assert {one["name"] for one in known["migration"]["options"]} == {"runs", "bringups", "profile"}
        # There is no such testbed, which the command finds out and says.
        options = {"testbed": True, "only": "old-term"}
        started = await browser.post("/testbed/v1/experiments/attacks", json={"options": options})
        assert started.status_code == 202, started.text
        assert started.json()["run"]["ended"] is None
        busy = await browser.post("/testbed/v1/experiments/attacks", json={"options": options})
        assert (busy.status_code, "attacks is running" in busy.text) == (409, True)
        while (ran := (await browser.get("/testbed/v1/experiments")).json()["run"])["ended"] is None:  # noqa: ASYNC110 - by REST
            await asyncio.sleep(0.05)
        assert ran["code"] != 0
        assert "no testbed named 'dt' is up" in "\n".join(ran["lines"])
        await browser.post("/testbed/v1/experiments/attacks", json={"options": options})
        assert (await browser.delete("/testbed/v1/experiments")).status_code == 204
        ran = (await browser.get("/testbed/v1/experiments")).json()["run"]
        assert ran["stopped"] and ran["ended"] is not None

    run(folder, Rights.OPERATOR, scenario)


def test_an_experiment_that_cannot_be_is_refused_by_name_and_value(folder: Folder) -> None:
    async def scenario(browser: httpx.AsyncClient) -> None:
        for name, options, status, says in (
            ("nonsense", {}, 404, "'nonsense'"),
            ("failover", {"colour": 1}, 422, "'colour'"),
            ("failover", {"runs": 0}, 422, "runs is 1 to any, not 0"),
            ("failover", {"runs": "many"}, 422, "not 'many'"),
            ("attacks", {"small": 3}, 422, "small is true or false"),
        ):
            reply = await browser.post(f"/testbed/v1/experiments/{name}", json={"options": options})
            assert (reply.status_code, says in reply.text) == (status, True), reply.text
        (folder_module.ROOT / "experiment").mkdir()
        reply = await browser.post("/testbed/v1/experiments/failover", json={})
        assert (reply.status_code, "testbed named 'experiment'" in reply.text) == (409, True), reply.text
        assert (await browser.get("/testbed/v1/experiments")).json()["run"] is None

    run(folder, Rights.OPERATOR, scenario)


def test_what_an_experiment_has_written_is_served(folder: Folder) -> None:
    out = folder.state("web") / "experiments"
    out.mkdir(parents=True)
    (out / "failover.json").write_text('{"headline": "71 ms"}')
    (out / "failover.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")

    async def scenario(browser: httpx.AsyncClient) -> None:
        found = (await browser.get("/testbed/v1/experiments")).json()["experiments"]
        failover = next(one for one in found if one["name"] == "failover")
        assert failover["files"] == ["svg", "json"]
        assert failover["measured_at"] == (out / "failover.json").stat().st_mtime
        summary = await browser.get("/testbed/v1/experiments/failover/summary")
        assert summary.json() == {"headline": "71 ms"}
        figure = await browser.get("/testbed/v1/experiments/failover/files/svg")
        assert figure.headers["content-type"] == "image/svg+xml"
        for path in ("failover/files/png", "migration/summary", "failover/files/key"):
            assert (await browser.get(f"/testbed/v1/experiments/{path}")).status_code == 404, path
        assert (await browser.post("/testbed/v1/experiments/failover", json={})).status_code == 403
        assert (await browser.delete("/testbed/v1/experiments")).status_code == 403

    run(folder, Rights.READER, scenario)
