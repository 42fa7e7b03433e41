"""The gateway between a browser and a controller's socket: who gets in, and that the rest passes through."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

from controller.web import gateway
from controller.web.addresses import new_address
from controller.web.sessions import Rights, Sessions
from duet_p4.rest.server import serve_local


def controller() -> FastAPI:
    """A controller as far as the gateway can tell: paths below /v1 on a Unix socket."""
    app = FastAPI()

    @app.api_route("/v1/echo/{rest:path}", methods=["GET", "POST"])
    async def echo(request: Request) -> dict[str, str]:
        headers = request.headers
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "body": (await request.body()).decode(),
            "if-match": headers.get("if-match", ""),
            "cookie": headers.get("cookie", ""),
        }

    @app.get("/v1/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "data: first\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(parts(), media_type="text/event-stream")

    return app


def shells() -> APIRouter:
    """What is served beside the controller, and is more than looking."""
    api = APIRouter()

    @api.get("/testbed/v1/output", dependencies=[Depends(gateway.require_operator)])
    async def output() -> str:
        return "secret"

    return api


@asynccontextmanager
async def gated(path: Path) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    local = path / "web.sock"
    upstreams = [path / "gone.sock", path / "controller.sock"]
    async with (
        serve_local(controller(), path / "controller.sock"),
        gateway.running(gateway.bind(0), Sessions(b"key"), upstreams, local, routers=[shells()]) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as browser,
    ):
        yield url, browser


async def enter(path: Path, browser: httpx.AsyncClient, rights: Rights = Rights.OPERATOR) -> None:
    answer = await browser.get(await new_address(path / "web.sock", rights))
    assert answer.status_code == 303, answer.text


def run(path: Path, scenario: Callable[[str, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), gated(path) as (url, browser):
            await scenario(url, browser)

    asyncio.run(main())


def test_a_browser_without_a_session_gets_nothing(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        for path in ("/", "/assets/main.js", "/session", "/v1/echo/x", "/metrics", "/openapi.json"):
            assert (await browser.get(path)).status_code == 401, path
        assert (await browser.post("/v1/echo/x")).status_code == 401
        assert (await browser.get("/?token=guess")).status_code == 401

    run(tmp_path, scenario)


def test_an_address_lets_in_one_browser_once(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        address = await new_address(tmp_path / "web.sock", Rights.OPERATOR)
        answer = await browser.get(address)
        cookie = answer.headers["set-cookie"].lower()
        assert answer.headers["location"] == "/"
        assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
        page = await browser.get("/")
        assert page.status_code == 200 and "DUET" in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert (await browser.get("/assets/main.js")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as other:
            assert (await other.get(address)).status_code == 401

    run(tmp_path, scenario)


def test_requests_pass_with_body_query_and_revision_but_without_the_cookie(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        await enter(tmp_path, browser)
        answer = await browser.post(
            "/v1/echo/a%20b?x=1&y=%C3%A4", content=b"body", headers={"If-Match": '"3"'}
        )
        assert answer.json() == {
            "method": "POST",
            "path": "/v1/echo/a b",
            "query": "x=1&y=%C3%A4",
            "body": "body",
            "if-match": '"3"',
            "cookie": "",
        }

    run(tmp_path, scenario)


def test_a_reader_looks_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        await enter(tmp_path, browser, Rights.READER)
        assert (await browser.get("/session")).json()["rights"] == "reader"
        assert (await browser.get("/v1/echo/x")).status_code == 200
        refused = await browser.post("/v1/echo/x")
        assert refused.status_code == 403
        assert "only look" in refused.json()["detail"]
        assert (await browser.get("/testbed/v1/output")).status_code == 403
        await enter(tmp_path, browser, Rights.OPERATOR)
        assert (await browser.get("/testbed/v1/output")).json() == "secret"

    run(tmp_path, scenario)


def test_other_pages_and_other_names_are_refused(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        await enter(tmp_path, browser)
        own = await browser.post("/v1/echo/x", headers={"Origin": url})
        assert own.status_code == 200
        for origin in ("http://evil.example", "null", url.replace("http:", "https:")):
            assert (await browser.post("/v1/echo/x", headers={"Origin": origin})).status_code == 403, origin
        rebound = await browser.get("/v1/echo/x", headers={"Host": "evil.example:80"})
        assert rebound.status_code == 403

    run(tmp_path, scenario)


def test_events_come_as_they_happen(tmp_path: Path) -> None:
    async def scenario(url: str, browser: httpx.AsyncClient) -> None:
        await enter(tmp_path, browser)
        async with browser.stream("GET", "/v1/endless") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            async for line in reply.aiter_lines():
                assert line == "data: first"
                break

    run(tmp_path, scenario)


def test_a_controller_that_is_away_is_said_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        local = tmp_path / "web.sock"
        running = gateway.running(gateway.bind(0), Sessions(b"key"), [tmp_path / "none"], local)
        async with running as url, httpx.AsyncClient(base_url=url, trust_env=False) as browser:
            await enter(tmp_path, browser)
            assert (await browser.get("/")).status_code == 200
            answer = await browser.get("/v1/status")
            assert answer.status_code == 502
            assert "the controller does not answer" in answer.json()["detail"]

    asyncio.run(main())
