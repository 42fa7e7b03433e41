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
            async with asyncio.timeout(20):
                while not folder.web_socket.exists():  # noqa: ASYNC110 - another task makes it
                    await asyncio.sleep(0.01)
                address = await new_address(folder.web_socket, rights)
                async with httpx.AsyncClient(base_url=address.partition("/?")[0], trust_env=False) as browser:
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
