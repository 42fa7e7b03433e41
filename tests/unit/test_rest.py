import asyncio
import gc
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest

from duet_p4.model import Dip, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol, Vip
from duet_p4.model import Group as MuxGroup
from duet_p4.rest import credentials
from duet_p4.rest.app import Health, State, create_app
from duet_p4.rest.client import MuxClient, RefusedError, UnreachableError
from duet_p4.rest.mux import Change, MuxCounters, MuxStatus, TipState, VipState, router, with_dip, without_dip
from duet_p4.rest.problems import MEDIA_TYPE, ConflictError, UnknownError
from duet_p4.rest.server import serve

TOKEN = "a-token"
JSON = {"Content-Type": "application/json"}
VIP = IPv4Address("10.0.0.1")


def dips(*last: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address(f"100.0.0.{n}")) for n in last)


def mux_vip(*last: int) -> MuxVip:
    return MuxVip.of(Vip(address=VIP, dips=dips(*last)))


@dataclass
class FakeMux:
    """Holds VIPs in a dict; refuses more than two, as a full table would."""

    held: dict[IPv4Address, MuxVip] = field(default_factory=dict)
    announced: set[IPv4Address] = field(default_factory=set)

    def _change(self, address: IPv4Address) -> Change:
        return Change(
            address=address, announced=address in self.announced, updates=1, timings_ms={"add_vip": 0.5}
        )

    def _known(self, address: IPv4Address) -> MuxVip:
        if address not in self.held:
            raise UnknownError(f"VIP {address} is not on this mux")
        return self.held[address]

    async def put_vip(self, vip: MuxVip, *, announce: bool) -> Change:
        if len(self.held) == 2 and vip.address not in self.held:
            raise ConflictError("host_table holds 2 of 2 entries", "table-full")
        self.held[vip.address] = vip
        if announce:
            self.announced.add(vip.address)
        return self._change(vip.address)

    async def edit_vip(self, address: IPv4Address, edit: Callable[[MuxVip], MuxVip]) -> Change:
        self.held[address] = edit(self._known(address))
        return self._change(address)

    async def delete_vip(self, address: IPv4Address) -> Change:
        self._known(address)
        del self.held[address]
        self.announced.discard(address)
        return self._change(address)

    async def announce_vip(self, address: IPv4Address) -> Change:
        self._known(address)
        self.announced.add(address)
        return self._change(address)

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        self._known(address)
        self.announced.discard(address)
        return self._change(address)

    async def vips(self) -> list[VipState]:
        return [VipState(vip=self.held[a], announced=a in self.announced) for a in sorted(self.held)]

    async def put_tip(self, tip: MuxTip, *, announce: bool) -> Change:
        return self._change(tip.address)

    async def delete_tip(self, address: IPv4Address) -> Change:
        raise UnknownError(f"TIP {address} is not on this mux")

    announce_tip = withdraw_tip = delete_tip

    async def tips(self) -> list[TipState]:
        return []

    async def status(self) -> MuxStatus:
        raise RuntimeError("a bug")

    async def counters(self) -> MuxCounters:
        return MuxCounters(vips=(), tunnels=(), drops={"ttl": 1})


@asynccontextmanager
async def serving(token: str | None = TOKEN) -> AsyncIterator[tuple[str, FakeMux]]:
    mux = FakeMux()
    app = create_app("test mux", token=token)
    app.include_router(router(mux))
    async with serve(app, "127.0.0.1", 0) as url:
        yield url, mux


def test_a_vip_travels_to_the_mux_and_back_unchanged() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url, token=TOKEN) as client:
            sent = mux_vip(1, 2)
            change = await client.put_vip(sent)
            assert (change.announced, change.timings_ms) == (True, {"add_vip": 0.5})
            assert mux.held == {VIP: sent}
            assert await client.get_vips() == [VipState(vip=sent, announced=True)]
            assert (await client.withdraw_vip(VIP)).announced is False
            await client.delete_vip(VIP)
            assert await client.get_vips() == []

    asyncio.run(run())


def test_dips_are_added_and_removed_one_by_one() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url, token=TOKEN) as client:
            await client.put_vip(mux_vip(1, 2))
            await client.put_dip(VIP, dips(3)[0])
            assert mux.held[VIP].group == MuxGroup.of(dips(1, 2)).updated(dips(1, 2, 3))
            await client.delete_dip(VIP, IPv4Address("100.0.0.1"))
            assert [dip.address.packed[3] for dip in mux.held[VIP].groups()[0].members] == [2, 3]
            with pytest.raises(RefusedError, match=r"404 .*VIP 10.0.0.1 has no DIP 100.0.0.9"):
                await client.delete_dip(VIP, IPv4Address("100.0.0.9"))
            await client.delete_dip(VIP, IPv4Address("100.0.0.2"))
            with pytest.raises(RefusedError, match="left without a DIP"):
                await client.delete_dip(VIP, IPv4Address("100.0.0.3"))

    asyncio.run(run())


def test_errors_are_problems_that_name_what_was_wrong() -> None:
    async def run() -> None:
        async with serving() as (url, mux), MuxClient(url, token=TOKEN) as client:
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

            http = httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
            )
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


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic a-token", "a-token"])
def test_writes_without_the_token_are_refused_and_reads_are_not(header: str | None) -> None:
    async def run() -> None:
        headers = {"Authorization": header} if header else {}
        async with serving() as (url, mux):
            async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
                reply = await http.put("/v1/vips/10.0.0.1", content=mux_vip(1).model_dump_json())
                assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
                assert reply.headers["content-type"] == MEDIA_TYPE
                assert (await http.put("/v1/vips/10.0.0.1", content="no json")).status_code == 401
                assert (await http.get("/v1/vips")).json() == []
            assert mux.held == {}

    asyncio.run(run())


def test_healthz_is_503_until_ready() -> None:
    async def run() -> None:
        now = Health(state=State.STARTING, detail="waiting for the switch")
        async with serve(create_app("t", token=None, health=lambda: now), "127.0.0.1", 0) as url:
            async with MuxClient(url) as client:
                assert await client.health() == now
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{url}/healthz")).status_code == 503
                now = Health(state=State.READY)
                assert (await http.get(f"{url}/healthz")).status_code == 200

    asyncio.run(run())


def test_openapi_documents_problems_and_the_token() -> None:
    async def run() -> None:
        async with serving() as (url, _), httpx.AsyncClient(base_url=url, trust_env=False) as http:
            schema = (await http.get("/openapi.json")).json()
        put = schema["paths"]["/v1/vips/{vip}"]["put"]
        assert put["security"] == [{"token": []}]
        assert list(put["responses"]["422"]["content"]) == [MEDIA_TYPE]
        assert {"401", "409"} <= put["responses"].keys()
        assert "security" not in schema["paths"]["/v1/vips"]["get"]
        assert {"Problem", "InvalidValue"} <= schema["components"]["schemas"].keys()

    asyncio.run(run())


def test_tls_is_verified_against_the_created_authority(tmp_path: Path) -> None:
    ours = credentials.create(tmp_path / "ours", {"tor-1": [IPv4Address("127.0.0.1")]})
    other = credentials.create(tmp_path / "other", {})
    assert stat.S_IMODE(ours.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(ours.tls("tor-1").key.stat().st_mode) == 0o600
    token = credentials.read_token(ours.token_file)
    assert token != credentials.read_token(other.token_file)

    async def run() -> None:
        app = create_app("t", token=token)
        app.include_router(router(FakeMux()))
        async with serve(app, "127.0.0.1", 0, ours.tls("tor-1")) as url:
            assert url.startswith("https://")
            async with MuxClient(url, token=token, ca=ours.ca) as client:
                await client.put_vip(mux_vip(1))
            async with MuxClient(url, token=token, ca=other.ca) as client:
                with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get_vips()

    asyncio.run(run())


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="token"):
        credentials.read_token(tmp_path / "token")


def test_a_port_in_use_is_named() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
                async with serve(create_app("t", token=None), "127.0.0.1", port):
                    pass
            taken.close()
            async with MuxClient(f"http://127.0.0.1:{port}") as client:
                with pytest.raises(UnreachableError, match=str(port)):
                    await client.get_vips()

    asyncio.run(run())


def test_answers_do_not_wait_for_acknowledgements() -> None:
    async def scenario() -> None:
        async with (
            serve(create_app("x", token=None), "127.0.0.1", 0) as url,
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
        app = create_app("t", token=None)
        release = asyncio.Event()

        @app.get("/v1/vips")
        async def vips() -> list[VipState]:
            await release.wait()
            return []

        async with serve(app, "127.0.0.1", 0) as url, MuxClient(url, timeout_s=0.05) as client:
            with pytest.raises(UnreachableError, match=r"no answer in 0.05 s"):
                await client.get_vips()
            release.set()

    asyncio.run(run())


def test_removing_a_dip_drops_its_pinned_flows_and_touches_only_its_groups() -> None:
    http = MuxPortGroup(protocol=Protocol.TCP, port=80, group=MuxGroup.of(dips(1, 2)))
    ftp = MuxPortGroup(protocol=Protocol.TCP, port=21, group=MuxGroup.of(dips(3)))
    pinned = tuple(
        PinnedFlow(
            protocol=6, source=IPv4Address("1.1.1.1"), source_port=9, destination_port=80, dip=dip.address
        )
        for dip in dips(1, 2)
    )
    vip = MuxVip(address=VIP, ports=(http, ftp), pinned=pinned)
    after = without_dip(vip, IPv4Address("100.0.0.1"))
    assert after.pinned == pinned[1:]
    assert after.ports[1] == ftp
    assert [dip.address.packed[3] for dip in after.ports[0].group.members] == [2]
    with pytest.raises(UnknownError, match="port-based"):
        with_dip(vip, dips(4)[0])
    grown = with_dip(vip, dips(4)[0], Protocol.TCP, 21)
    assert [dip.address.packed[3] for dip in grown.ports[1].group.members] == [3, 4]
