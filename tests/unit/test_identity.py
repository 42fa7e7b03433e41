"""Who is who, over real mutual TLS on loopback: what roles may do, what strangers cannot, and rotation."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from duet_p4.api.service import Whoami
from duet_p4.identity import Authority, Credentials, CredentialsError, Identity, Role
from duet_p4.identity.authority import IDENTITY, TRUST
from duet_p4.identity.rotation import RotationError, rotate
from duet_p4.rest.access import AGENT
from duet_p4.rest.app import create_app
from duet_p4.rest.bounds import Bodies
from duet_p4.rest.client import MuxClient, RefusedError, UnreachableError
from duet_p4.rest.protocol import Limits
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from tests.unit.controller.memory_mux import MemoryMux
from tests.unit.test_rest import VIP, mux_vip

HERE = IPv4Address("127.0.0.1")
NAMES = {role: f"{role}1" for role in Role}


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Credentials]:
    """Credentials of one of each role."""
    authority = Authority()
    for role, name in NAMES.items():
        authority.issue(tmp_path / "keys" / name, Identity(role, name), [HERE])
    return {name: Credentials(tmp_path / "keys" / name) for name in NAMES.values()}


@asynccontextmanager
async def served(
    credentials: Credentials, limits: Limits | None = None, bodies: Bodies | None = None
) -> AsyncIterator[tuple[str, MemoryMux]]:
    mux = MemoryMux("switch1")
    app = create_app("switch1", access=AGENT, credentials=credentials, bodies=bodies, terms=mux.terms)
    app.include_router(router(mux))
    async with serve(app, "127.0.0.1", 0, credentials, limits) as url:
        yield url, mux


def test_a_role_may_do_on_an_agent_what_it_must_and_no_more(keys: Mapping[str, Credentials]) -> None:
    may: dict[Role, tuple[bool, bool]] = {}

    async def allowed(role: Role, url: str) -> tuple[bool, bool]:
        found = []
        async with MuxClient(url, credentials=keys[NAMES[role]]) as client:
            assert (await client.health()).state == "ready"
            assert (await client.whoami()).peer == f"{role} {NAMES[role]}"
            for ask in (client.get_vips(), client.put_vip(mux_vip(1))):
                try:
                    await ask
                    found.append(True)
                except RefusedError as error:
                    assert error.problem.status == 403
                    assert NAMES[role] in error.problem.detail
                    found.append(False)
        return found[0], found[1]

    async def run() -> None:
        async with served(keys["switch1"]) as (url, _):
            for role in Role:
                may[role] = await allowed(role, url)

    asyncio.run(run())
    assert may == {
        Role.CONTROLLER: (True, True),
        Role.OPERATOR: (True, True),
        Role.READER: (True, False),
        Role.SWITCH: (False, False),
        Role.SMUX: (False, False),
        Role.SERVER: (False, False),
    }


def test_no_tricks_with_paths_and_methods_get_a_server_to_write(keys: Mapping[str, Credentials]) -> None:
    async def run() -> None:
        async with served(keys["switch1"]) as (url, mux):
            await mux.put(mux_vip(1), announce=True)
            async with MuxClient(url, credentials=keys["server1"]) as client:
                for method in ("DELETE", "delete", "PUT", "PATCH", "POST", "TRACE", "CONNECTX"):
                    for path in (
                        f"/v1/vips/{VIP}",
                        f"/v1/vips/{VIP}/",
                        f"//v1/vips/{VIP}",
                        f"/healthz/../v1/vips/{VIP}",
                        f"/healthz%2f..%2fv1/vips/{VIP}",
                        f"/v1/./vips/{VIP}",
                        f"/v1/vips/{VIP}?_method=GET",
                        f"/v1/vips/{VIP};x=/healthz",
                    ):
                        with pytest.raises((RefusedError, UnreachableError)):
                            await client.call(method, path, object, headers={"X-HTTP-Method-Override": "GET"})
                for path in (
                    f"/v1/vips/{VIP}/",
                    "//v1/vips",
                    "/healthz/../v1/vips",
                    "/openapi.json",
                    "/docs",
                ):
                    with pytest.raises(RefusedError, match="403"):
                        await client.call("GET", path, object)
            assert set(mux.held) == {VIP}

    asyncio.run(run())


def test_who_has_no_certificate_of_our_authority_gets_no_connection(
    keys: Mapping[str, Credentials], tmp_path: Path
) -> None:
    Authority().issue(tmp_path / "forged", Identity(Role.CONTROLLER, "controller1"), [HERE])
    (tmp_path / "forged" / TRUST).write_bytes((keys["switch1"].folder / TRUST).read_bytes())

    async def speak(context: ssl.SSLContext | None, port: int) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return await reader.read()
        except OSError:
            return b""

    async def run() -> None:
        async with served(keys["switch1"]) as (url, _):
            port = int(url.rpartition(":")[2])
            nobody = ssl.create_default_context(cafile=keys["switch1"].folder / TRUST)
            old = Credentials(keys["controller1"].folder).client()
            old.minimum_version = ssl.TLSVersion.TLSv1_2
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            for context in (None, nobody, old, Credentials(tmp_path / "forged").client()):
                answer = await speak(context, port)
                assert b"ready" not in answer, answer
            assert b"ready" in await speak(keys["reader1"].client(), port)

    asyncio.run(run())


def test_a_server_that_stands_in_for_a_switch_is_not_believed(keys: Mapping[str, Credentials]) -> None:
    """Its certificate is good, but for other addresses than the switch's."""
    authority = Authority()
    folder = keys["server1"].folder.parent
    for name, address in (("controller1", "127.0.0.3"), ("server1", "127.0.0.2")):
        authority.issue(folder / name, keys[name].identity, [IPv4Address(address)])

    async def run() -> None:
        async with (
            served(Credentials(folder / "server1")) as (url, _),
            MuxClient(url, credentials=Credentials(folder / "controller1")) as client,
        ):
            with pytest.raises(UnreachableError, match="IP address mismatch"):
                await client.get_vips()

    asyncio.run(run())


def test_bodies_and_headers_and_connections_are_bounded(keys: Mapping[str, Credentials]) -> None:
    async def run() -> None:
        limits = Limits(header_s=1.0, connections_per_peer=4)
        bodies = Bodies(most=20_000, by_path={}, within_s=0.3)
        async with served(keys["switch1"], limits, bodies) as (url, mux):
            port = int(url.rpartition(":")[2])
            context = keys["controller1"].client()
            head = b"PUT /v1/vips/10.0.0.1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

            async def send(*parts: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                async with asyncio.timeout(5):
                    try:
                        return await reader.read()
                    except ConnectionError:
                        return b""
                    finally:
                        writer.close()

            chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
            chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
            assert b"413" in (await send(head + b"Content-Length: 20001\r\n\r\n"))[:20]
            assert b"413" in (await send(chunked, chunk, chunk, chunk))[:20]
            assert b"408" in (await send(head + b"Content-Length: 20\r\n\r\n", b"{"))[:20]
            assert b"400" in (await send(head + b"Content-Length: 1e9\r\n\r\n"))[:20]
            assert await send(head[:30]) == b"", "a header that never ends is given up"
            assert b"400" in (await send(b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"))[:20]
            held = [await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in range(4)]
            assert await send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b"", "a fifth one of one peer"
            async with MuxClient(url, credentials=keys["operator1"]) as other:
                assert (await other.health()).state == "ready"
            for _, writer in held:
                writer.close()
            assert mux.held == {}

    asyncio.run(run())


def test_certificates_are_rotated_while_requests_go_on(keys: Mapping[str, Credentials]) -> None:
    folder = keys["switch1"].folder.parent
    stolen = folder.parent / "stolen"
    stolen.mkdir()
    for name in (IDENTITY, TRUST):
        (stolen / name).write_bytes((keys["controller1"].folder / name).read_bytes())

    async def run() -> None:
        steps: list[str] = []
        async with (
            served(keys["switch1"]) as (url, _),
            MuxClient(url, credentials=keys["controller1"]) as client,
            MuxClient(url, credentials=keys["operator1"]) as operator,
            MuxClient(url, credentials=Credentials(stolen)) as thief,
        ):
            before = await client.whoami()
            assert (await thief.whoami()).peer == "controller controller1"
            over = asyncio.Event()
            asked = 0

            async def ask_again_and_again() -> None:
                nonlocal asked
                while not over.is_set():
                    assert (await client.whoami()).peer == "controller controller1"
                    asked += 1
                    await asyncio.sleep(0.01)

            async def ask(name: str) -> Whoami | None:
                return await operator.whoami() if name == "switch1" else None

            going = asyncio.create_task(ask_again_and_again())
            silent = await rotate(folder, ["switch1", "smux1"], ask, steps.append, patience_s=10)
            over.set()
            await going
            after = await client.whoami()
            assert asked > 3 and silent == ["smux1"] and len(steps) == 3
            assert len(after.trusted) == 1 and after.trusted != before.trusted
            assert after.serial != before.serial
            for _ in range(2):  # a connection from before the change may have one more request
                with pytest.raises(UnreachableError):
                    await thief.whoami()
                    await thief.whoami()

    asyncio.run(run())


def test_a_rotation_that_somebody_does_not_take_breaks_nothing(keys: Mapping[str, Credentials]) -> None:
    folder = keys["switch1"].folder.parent

    async def run() -> None:
        async with (
            served(keys["switch1"]) as (url, _),
            MuxClient(url, credentials=keys["controller1"]) as client,
        ):

            async def deaf(_: str) -> Whoami:
                return Whoami(service=None, peer=None, serial=None, expires=None, trusted=(), generation=0)

            with pytest.raises(RotationError, match="not smux1"):
                await rotate(folder, ["smux1"], deaf, lambda _: None, patience_s=0)
            await asyncio.sleep(0.3)
            assert len((await client.whoami()).trusted) == 2

    asyncio.run(run())


def test_credentials_are_private_and_the_authoritys_key_is_nowhere(keys: Mapping[str, Credentials]) -> None:
    folder = keys["switch1"].folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / IDENTITY).stat().st_mode) == 0o600
    secrets = [
        path for path in folder.parent.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()
    ]
    assert sorted(path.parent.name for path in secrets) == sorted(NAMES.values())


def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"identity\.pem"):
        Credentials(tmp_path)
    one, other = Authority(), Authority()
    one.issue(tmp_path / "a", Identity(Role.SERVER, "a"))
    other.issue(tmp_path / "b", Identity(Role.SERVER, "b"))
    a, b = ((tmp_path / name / IDENTITY).read_bytes() for name in "ab")
    cut = b"-----BEGIN CERTIFICATE-----"
    (tmp_path / "a" / IDENTITY).write_bytes(a[: a.index(cut)] + b[b.index(cut) :])
    with pytest.raises(CredentialsError, match="key values mismatch"):
        Credentials(tmp_path / "a")
    with pytest.raises(ValueError, match="is no name"):
        Identity(Role.SERVER, "../controller")
