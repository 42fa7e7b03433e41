import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Response

from duet_p4.api import host, mux
from duet_p4.api.changes import Action
from duet_p4.api.digest import SetDigest
from duet_p4.api.host import HostChanges, HostDip, HostVip
from duet_p4.api.mux import Changes, MuxEntry, MuxStatus, Put, Stated, TipState, VipState, WantedState
from duet_p4.api.problems import MEDIA_TYPE, ConflictError, OldTermError
from duet_p4.api.service import Health, State
from duet_p4.model import Dip, MuxTip, MuxVip, Vip
from duet_p4.model import Group as MuxGroup
from duet_p4.rest.app import create_app
from duet_p4.rest.client import MuxClient, RefusedError, RestError, UnreachableError
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from duet_p4.term import Terms
from tests.unit.controller.memory_mux import MemoryMux

JSON = {"Content-Type": "application/json"}
VIP = IPv4Address("10.0.0.1")


def dips(*last: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address(f"100.0.0.{n}")) for n in last)


TIP = MuxTip(address="20.0.0.1", group=MuxGroup.of((Dip(address="100.0.0.1"),)))


def other(last: int) -> MuxVip:
    return mux_vip(1).model_copy(update={"address": IPv4Address(f"10.0.0.{last}")})


def mux_vip(*last: int) -> MuxVip:
    return MuxVip.of(Vip(address=VIP, dips=dips(*last)))


class FullMux(MemoryMux):
    """Has room for two VIPs, and a bug."""

    def _check_room(self, entry: MuxEntry) -> None:
        if len(self.held) == 2 and entry.address not in self.held:
            raise ConflictError("host_table holds 2 of 2 entries", "table-full")

    async def status(self) -> MuxStatus:
        raise RuntimeError("a bug")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, FullMux]]:
    mux = FullMux("mux")
    app = create_app("test mux", access=None, terms=mux.terms)
    app.include_router(router(mux))
    async with serve(app, "127.0.0.1", 0, None) as url:
        yield url, mux


def test_changes_are_read_as_they_were_stated() -> None:
    gone = [IPv4Address("10.0.0.8"), IPv4Address("10.0.0.9")]
    put: list[tuple[MuxEntry, bool]] = [(mux_vip(1), True), (TIP, False)]
    served = HostVip(address=VIP, dips=(HostDip(address=IPv4Address("100.0.0.1")),))
    for count in range(3):
        some, addresses = put[:count], gone[:count]
        assert Changes.model_validate_json(mux.changes_text(addresses, some, addresses)) == Changes(
            delete=tuple(addresses),
            put=tuple(Put(entry=Stated.of(entry), announce=also) for entry, also in some),
            announce=tuple(addresses),
        )
        vips = (served, served.model_copy(update={"address": VIP + 1}))[:count]
        told = host.changes_text(addresses, vips)
        assert HostChanges.model_validate_json(told) == HostChanges(delete=tuple(addresses), put=vips)


def test_a_vip_travels_to_the_mux_and_back_unchanged() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url) as client:
            sent = mux_vip(1, 2)
            change = await client.put_vip(sent)
            assert (change.announced, change.updates) == (True, 1)
            assert mux.held == {VIP: sent}
            assert await client.get_vips() == [VipState(vip=sent, announced=True)]
            assert (await client.withdraw_vip(VIP)).announced is False
            await client.delete_vip(VIP)
            assert await client.get_vips() == []

    asyncio.run(run())


def test_a_tip_is_none_of_the_vips() -> None:
    async def run() -> None:
        async with serving() as (url, _), MuxClient(url) as client:
            await client.put_tip(TIP)
            assert await client.get_tip(TIP.address) == TipState(tip=TIP, announced=True)
            with pytest.raises(RefusedError, match=r"404 .*VIP 20.0.0.1 is not on this mux"):
                await client.delete_vip(TIP.address)
            await client.delete_tip(TIP.address)
            assert await client.get_tips() == []

    asyncio.run(run())


def test_one_request_changes_many_and_what_fails_for_one_stops_no_other() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url) as client:
            await client.put_vip(mux_vip(1))
            changed = await client.change(
                Changes(
                    withdraw=(VIP + 9,),
                    delete=(VIP,),
                    put=tuple(Put(entry=Stated.of(entry)) for entry in (other(2), other(3), other(4), TIP)),
                    announce=(VIP + 1,),
                )
            )
            results = [
                (str(r.address), r.action, r.problem.kind if r.problem else None) for r in changed.results
            ]
            assert results == [
                ("10.0.0.10", Action.WITHDRAW, "not-found"),
                ("10.0.0.1", Action.DELETE, None),
                ("20.0.0.1", Action.PUT, None),
                ("10.0.0.2", Action.PUT, None),
                ("10.0.0.3", Action.PUT, "table-full"),
                ("10.0.0.4", Action.PUT, "table-full"),
                ("10.0.0.2", Action.ANNOUNCE, None),
            ]
            assert mux.log[-3:] == ["mux put 20.0.0.1", "mux put 10.0.0.2", "mux announce 10.0.0.2"]
            assert changed.digest == await client.digest()
            assert (changed.digest.entries, changed.digest.announced) == (2, 2)

    asyncio.run(run())


def test_a_mux_becomes_what_is_wanted_and_writes_only_the_difference() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url) as client:
            await client.put_vip(other(2))
            await client.put_vip(other(3), announce=False)
            wanted = WantedState(
                vips=(VipState(vip=other(3), announced=True),), tips=(TipState(tip=TIP, announced=False),)
            )
            mux.log.clear()
            changed = await client.become(wanted)
            assert mux.log == ["mux delete 10.0.0.2", "mux program 20.0.0.1", "mux announce 10.0.0.3"]
            assert changed.problems() == [] and mux.synced
            assert (await client.become(wanted)).results == ()
            expected = SetDigest()
            expected.add(other(3), announced=True)
            expected.add(TIP, announced=False)
            assert changed.digest.digest == expected.hex()

    asyncio.run(run())


def test_a_mux_is_synced_once_its_digest_is_confirmed() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url) as client:
            told: list[bool] = []
            mux.on_confirmation(lambda: told.append(mux.synced))
            await client.put_vip(other(2))
            with pytest.raises(RefusedError, match="409") as refused:
                await client.confirm("0" * 64)
            assert refused.value.problem.kind == "digest-differs"
            assert (await client.digest()).digest in refused.value.problem.detail
            assert not mux.synced
            for _ in range(2):
                await client.confirm((await client.digest()).digest)
            assert mux.synced and told == [True]

    asyncio.run(run())


def test_writes_of_an_old_term_are_refused_even_by_the_next_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (url, _), MuxClient(url) as client:
            await client.put_vip(other(1))
            client.term = 3
            await client.put_vip(other(2))
            assert (await client.digest()).term == 3
            for term in (2, None):
                client.term = term
                with pytest.raises(RefusedError, match="412") as refused:
                    await client.delete_vip(VIP)
                assert refused.value.problem.kind == "old-term"
                # An operator has no term; this mux is none that can be drained.
                with pytest.raises(RefusedError, match="404"):
                    await client.drain(draining=True)
            assert len(await client.get_vips()) == 2
            client.term = 3
            await client.delete_vip(VIP)
            async with httpx.AsyncClient(trust_env=False) as http:
                headers = {"Duet-Term": "3x"}
                reply = await http.delete(f"{url}/v1/vips/10.0.0.2", headers=headers)
            assert (reply.status_code, "'3x' is no term" in reply.json()["detail"]) == (400, True)

    asyncio.run(run())
    first = Terms(tmp_path / "term")
    first.admit("7")
    with pytest.raises(OldTermError, match="term 6 is over"):
        Terms(tmp_path / "term").admit("6")
    (tmp_path / "term").write_text("seven")
    assert "set aside" in Terms(tmp_path / "term").problem


def test_a_write_that_waited_while_a_newer_leader_wrote_is_refused() -> None:
    async def run() -> None:
        async with serving() as (url, mux):
            old, new = MuxClient(url), MuxClient(url)
            old.term, new.term = 1, 2
            async with old, new:
                async with mux.alone(VIP):
                    waiting = asyncio.create_task(old.put_vip(mux_vip(1)))
                    while VIP not in mux.wanted_alone:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    await new.put_vip(other(2))
                with pytest.raises(RefusedError, match="412"):
                    await waiting
            assert set(mux.held) == {VIP + 1}

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", ['{"type": "about:blank", "title": "Internal Server Error", "status": 500}', "", "[]", "<html>"]
)
def test_an_answer_that_is_no_health_is_an_error_of_rest(answer: str) -> None:
    async def run() -> None:
        app = FastAPI()

        @app.get("/healthz")
        async def healthz() -> Response:
            return Response(answer, 500)

        async with serve(app, "127.0.0.1", 0, None) as url, MuxClient(url) as client:
            with pytest.raises(RestError, match="500 and no health"):
                await client.health()
            with pytest.raises(RefusedError, match="404"):
                await client.digest()

    asyncio.run(run())


def test_errors_are_problems_that_name_what_was_wrong() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url) as client:
            with pytest.raises(RefusedError) as refused:
                await client.get_vip(VIP)
            assert refused.value.problem.status == 404
            assert "10.0.0.1" in refused.value.problem.detail
            for last in (1, 2):
                await client.put_vip(mux_vip(1).model_copy(update={"address": IPv4Address(f"10.0.0.{last}")}))
            with pytest.raises(RefusedError) as refused:
                await client.put_vip(mux_vip(1).model_copy(update={"address": IPv4Address("10.0.0.3")}))
            assert refused.value.problem.type == "urn:duet-p4:problem:table-full"
            with pytest.raises(RefusedError, match=r"500 .*RuntimeError: a bug"):
                await client.status()
            assert len(mux.held) == 2

            http = httpx.AsyncClient(base_url=url, trust_env=False)
            group = '{"members": [{"address": "fe80::1"}], "slots": [0]}'
            bad = f'{{"address": "10.0.0.1", "group": {group}, "x": "\\ud800"}}'
            async with http:
                reply = await http.put("/v1/vips/10.0.0.1", content=bad, headers=JSON)
                assert (reply.status_code, reply.headers["content-type"]) == (422, MEDIA_TYPE)
                errors = {error["where"]: error["value"] for error in reply.json()["errors"]}
                assert errors["body.group.members.0.address"] == "'fe80::1'"
                assert "body.x" in errors
                reply = await http.put(
                    "/v1/vips/10.0.0.9", content=mux_vip(1).model_dump_json(), headers=JSON
                )
                assert (reply.status_code, "10.0.0.9" in reply.json()["detail"]) == (422, True)
                for method, path, status in (
                    ("GET", "/nowhere", 404),
                    ("POST", "/healthz", 405),
                    ("GET", "/v1/vips/banana", 422),
                ):
                    reply = await http.request(method, path)
                    assert (reply.status_code, reply.headers["content-type"]) == (status, MEDIA_TYPE), path

    asyncio.run(run())


def test_healthz_is_503_until_ready() -> None:
    async def run() -> None:
        now = Health(state=State.STARTING, detail="waiting for the switch")
        async with serve(create_app("t", access=None, health=lambda: now), "127.0.0.1", 0, None) as url:
            async with MuxClient(url) as client:
                assert await client.health() == now.model_copy(update={"processes": {"agent": os.getpid()}})
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{url}/healthz")).status_code == 503
                now = Health(state=State.READY)
                assert (await http.get(f"{url}/healthz")).status_code == 200

    asyncio.run(run())


def test_openapi_documents_problems() -> None:
    async def run() -> None:
        async with serving() as (url, _), httpx.AsyncClient(base_url=url, trust_env=False) as http:
            schema = (await http.get("/openapi.json")).json()
        put = schema["paths"]["/v1/vips/{vip}"]["put"]
        assert list(put["responses"]["422"]["content"]) == [MEDIA_TYPE]
        assert "409" in put["responses"]
        assert {"Problem", "InvalidValue"} <= schema["components"]["schemas"].keys()

    asyncio.run(run())


def test_a_port_in_use_is_named() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
                async with serve(create_app("t", access=None), "127.0.0.1", port, None):
                    pass
            taken.close()
            async with MuxClient(f"http://127.0.0.1:{port}") as client:
                with pytest.raises(UnreachableError, match=str(port)):
                    await client.get_vips()

    asyncio.run(run())


def test_answers_do_not_wait_for_acknowledgements() -> None:
    async def scenario() -> None:
        async with (
            serve(create_app("x", access=None), "127.0.0.1", 0, None) as url,
            MuxClient(url) as client,
        ):
            await client.health()
            port = int(url.rpartition(":")[2])
            accepted = [
                sock
                for sock in gc.get_objects()
                if isinstance(sock, socket.socket) and _is_accepted(sock, port)
            ]
            assert [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in accepted] == [1]

    asyncio.run(scenario())


def _is_accepted(sock: socket.socket, port: int) -> bool:
    try:
        return bool(sock.getsockname()[1] == port and sock.getpeername())
    except (OSError, IndexError):
        return False


def test_a_slow_service_is_given_up_on() -> None:
    async def run() -> None:
        app = create_app("t", access=None)
        release = asyncio.Event()

        @app.get("/v1/vips")
        async def vips() -> list[VipState]:
            await release.wait()
            return []

        async with serve(app, "127.0.0.1", 0, None) as url, MuxClient(url, timeout_s=0.05) as client:
            with pytest.raises(UnreachableError, match=r"no answer in 0.05 s"):
                await client.get_vips()
            release.set()

    asyncio.run(run())
