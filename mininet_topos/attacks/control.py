"""Attacks on the control channels: with a stolen certificate, with none, and on what a service can bear."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from controller.client import ControllerClient
from duet_p4.api.health import DipHealth, HealthReport
from duet_p4.api.ports import PortReport
from duet_p4.identity import Authority, Credentials, Identity, Role
from duet_p4.identity.authority import TRUST
from duet_p4.model import Dip, Group, MuxVip, Vip
from duet_p4.rest.client import HostClient, MuxClient, RestClient, RestError
from mininet_topos.addresses import CONTROLLERS, Kind
from mininet_topos.attacks.base import Book, Ground, Outcome
from mininet_topos.testbed import agents, vipfile
from mininet_topos.testbed.certificates import renew
from mininet_topos.testbed.nodes import CONTROLLER

Client = TypeVar("Client", bound=RestClient)

book = Book()
ROLES = "role in the certificate"
_CONTROLLER_URL = f"https://{CONTROLLERS[0]}:{agents.PORT}"
_NOBODY = 65534
_CLIENTS = 150
_FOLLOWERS = 70


def _ask(
    ground: Ground,
    node: str,
    kind: type[Client],
    url: str,
    credentials: Credentials | None,
    request: Callable[[Client], Awaitable[object]],
) -> Outcome:
    """Ask a service something from a node, as somebody; an answer is a success of the attack."""

    async def ask() -> Outcome:
        async with kind(url, credentials=credentials, timeout_s=5.0) as client:
            try:
                return Outcome(True, f"answered {await request(client)}")
            except RestError as error:
                return Outcome(False, str(error))

    return ground.act(node, ask)


def _stolen_vip(ground: Ground) -> MuxVip:
    """A VIP of the testbed, all of it led to the attacker's server."""
    mine = Group.of((Dip(address=ground.some(Kind.SERVER).address),))
    return MuxVip(address=ground.vip.address, group=mine)


def _report(reporter: str, vip: IPv4Address, dip: IPv4Address) -> HealthReport:
    down = DipHealth(vip=vip, dip=dip, up=False, since=datetime.now(UTC), checks=1)
    return HealthReport(reporter=reporter, dips=(down,))


def _post(ground: Ground, who: str, path: str, body: HealthReport | PortReport) -> Outcome:
    return _ask(
        ground,
        who,
        RestClient,
        _CONTROLLER_URL,
        ground.credentials(who),
        lambda client: client.call("POST", path, type(None), body=body),
    )


@book.add("stolen-server-to-switch", "a server's certificate rewrites a VIP on a ToR", ROLES)
def _(ground: Ground) -> Outcome:
    server, tor = ground.some(Kind.SERVER), ground.some(Kind.TOR)
    vip = _stolen_vip(ground)
    return _ask(
        ground,
        server.name,
        MuxClient,
        agents.url(tor),
        ground.credentials(server.name),
        lambda client: client.put_vip(vip),
    )


@book.add("stolen-server-to-smux", "a server's certificate removes a VIP from an SMux", ROLES)
def _(ground: Ground) -> Outcome:
    server, smux = ground.some(Kind.SERVER), ground.some(Kind.SMUX)
    return _ask(
        ground,
        server.name,
        MuxClient,
        agents.url(smux),
        ground.credentials(server.name),
        lambda client: client.delete_vip(ground.vip.address),
    )


@book.add("stolen-server-to-server", "a server's certificate takes a VIP from another server", ROLES)
def _(ground: Ground) -> Outcome:
    server, victim = ground.some(Kind.SERVER), ground.server_of(ground.vip.spec.dips[0].address)
    other = server if server != victim else ground.some(Kind.SERVER, 1)
    return _ask(
        ground,
        other.name,
        HostClient,
        agents.url(victim),
        ground.credentials(other.name),
        lambda client: client.delete_vip(ground.vip.address),
    )


@book.add("stolen-server-to-controller", "a server's certificate adds a VIP of its own", ROLES)
def _(ground: Ground) -> Outcome:
    server = ground.some(Kind.SERVER)
    vip = Vip(address=IPv4Address("10.0.66.6"), dips=(Dip(address=server.address),))
    return _ask(
        ground,
        server.name,
        ControllerClient,
        _CONTROLLER_URL,
        ground.credentials(server.name),
        lambda client: client.add_vip(vip),
    )


@book.add("stolen-smux-to-switch", "an SMux's certificate rewrites a VIP on a ToR", ROLES)
def _(ground: Ground) -> Outcome:
    smux, tor, vip = ground.some(Kind.SMUX), ground.some(Kind.TOR), _stolen_vip(ground)
    return _ask(
        ground,
        smux.name,
        MuxClient,
        agents.url(tor),
        ground.credentials(smux.name),
        lambda client: client.put_vip(vip),
    )


@book.add("stolen-switch-to-controller", "a switch's certificate has a VIP moved to itself", ROLES)
def _(ground: Ground) -> Outcome:
    core = ground.some(Kind.CORE)
    return _ask(
        ground,
        core.name,
        ControllerClient,
        _CONTROLLER_URL,
        ground.credentials(core.name),
        lambda client: client.migrate(ground.vip.address, core.name),
    )


@book.add("reader-writes", "a reader's certificate removes a VIP", ROLES)
def _(ground: Ground) -> Outcome:
    return _ask(
        ground,
        ground.some(Kind.SERVER).name,
        ControllerClient,
        _CONTROLLER_URL,
        ground.credentials("reader"),
        lambda client: client.remove_vip(ground.vip.address),
    )


@book.add("health-as-another-server", "a server reports as another server", "reports are in one's own name")
def _(ground: Ground) -> Outcome:
    dip = ground.vip.spec.dips[0].address
    victim = ground.server_of(dip)
    thief = next(n for n in (ground.some(Kind.SERVER, i) for i in range(2)) if n != victim)
    body = _report(victim.name, ground.vip.address, dip)
    return _post(ground, thief.name, "/v1/reports/health", body)


@book.add("health-of-another-server", "a server says that another's DIP is down", "a DIP is its server's")
def _(ground: Ground) -> Outcome:
    dip = ground.vip.spec.dips[0].address
    victim = ground.server_of(dip)
    thief = next(n for n in (ground.some(Kind.SERVER, i) for i in range(2)) if n != victim)
    body = _report(thief.name, ground.vip.address, dip)
    return _post(ground, thief.name, "/v1/reports/health", body)


@book.add("health-as-smux", "a server votes as an SMux", "reports are in one's own name")
def _(ground: Ground) -> Outcome:
    smux = ground.some(Kind.SMUX).name
    body = _report(smux, ground.vip.address, ground.vip.spec.dips[0].address)
    return _post(ground, ground.some(Kind.SERVER).name, "/v1/reports/health", body)


@book.add("ports-by-server", "a server says that a ToR has lost all its servers", ROLES)
def _(ground: Ground) -> Outcome:
    body = PortReport(switch=ground.some(Kind.TOR).name, ports=())
    return _post(ground, ground.some(Kind.SERVER).name, "/v1/reports/ports", body)


@book.add("ports-of-another-switch", "a ToR says that another has lost all its servers", "in one's own name")
def _(ground: Ground) -> Outcome:
    body = PortReport(switch=ground.some(Kind.TOR, 1).name, ports=())
    return _post(ground, ground.some(Kind.TOR).name, "/v1/reports/ports", body)


@book.add("old-term", "a controller that leads no more rewrites a VIP on a ToR", "terms (Duet-Term)")
def _(ground: Ground) -> Outcome:
    tor, vip = ground.some(Kind.TOR), _stolen_vip(ground)

    async def write(client: MuxClient) -> object:
        term = (await client.digest()).term
        if term == 0:
            raise RestError("no controller has led this testbed: there is no term to be older than")
        client.term = term - 1
        return await client.put_vip(vip)

    return _ask(ground, "root", MuxClient, agents.url(tor), ground.credentials(CONTROLLER), write)


@book.add("read-flows", "a server reads the live flows of a VIP at another server", ROLES)
def _(ground: Ground) -> Outcome:
    victim = ground.server_of(ground.vip.spec.dips[0].address)
    thief = next(n for n in (ground.some(Kind.SERVER, i) for i in range(2)) if n != victim)
    return _ask(
        ground,
        thief.name,
        HostClient,
        agents.url(victim),
        ground.credentials(thief.name),
        lambda client: client.live_flows(ground.vip.address),
    )


@book.add("read-metrics", "a server reads the controller's traffic matrix", ROLES)
def _(ground: Ground) -> Outcome:
    server = ground.some(Kind.SERVER)
    return _ask(
        ground,
        server.name,
        ControllerClient,
        _CONTROLLER_URL,
        ground.credentials(server.name),
        lambda client: client.call("GET", "/v1/traffic", list[object]),
    )


@book.add("plain-http", "somebody on the management network asks without TLS", "mutual TLS")
def _(ground: Ground) -> Outcome:
    tor = ground.some(Kind.TOR)
    url = agents.url(tor).replace("https:", "http:")
    return _ask(ground, ground.some(Kind.SERVER).name, MuxClient, url, None, lambda client: client.get_vips())


@book.add("no-certificate", "somebody on the management network shows no certificate", "mutual TLS")
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)
    context = ssl.create_default_context(cafile=ground.folder.identity(server.name) / TRUST)
    return ground.act(server.name, lambda: _greet(agents.url(tor), context))


@book.add(
    "forged-certificate", "a certificate `controller`, signed by an authority of one's own", "mutual TLS"
)
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)
    with tempfile.TemporaryDirectory() as folder:
        Authority().issue(Path(folder), Identity(Role.CONTROLLER, CONTROLLER))
        (Path(folder) / TRUST).write_bytes((ground.folder.identity(server.name) / TRUST).read_bytes())
        forged = Credentials(Path(folder))
        return ground.act(server.name, lambda: _greet(agents.url(tor), forged.client()))


@book.add("old-tls", "a server speaks TLS 1.2", "TLS 1.3 only")
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)
    context = ground.credentials(server.name).client()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return ground.act(server.name, lambda: _greet(agents.url(tor), context))


@book.add("man-in-the-middle", "a server answers in a ToR's place", "certificates name addresses")
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)
    assert tor.management is not None
    name = str(tor.management.ip)
    context = ground.credentials(CONTROLLER).client()
    return ground.act("root", lambda: _greet(agents.url(server), context, name))


async def _greet(url: str, context: ssl.SSLContext, name: str | None = None) -> Outcome:
    """Ask for `/healthz` over TLS; an answer is a success of the attack."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    try:
        async with asyncio.timeout(5.0):
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=name or host
            )
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError) as error:
        return Outcome(False, f"no connection: {error}")
    return Outcome(answer.startswith(b"HTTP/1.1 200"), f"answered {answer[:60]!r}")


@book.add("path-tricks", "a server's certificate writes by paths and methods that mean the same", ROLES)
def _(ground: Ground) -> Outcome:
    server, tor = ground.some(Kind.SERVER), ground.some(Kind.TOR)
    vip = ground.vip.address
    paths = (
        *(f"/v1/vips/{vip}/", f"//v1/vips/{vip}", f"/healthz/../v1/vips/{vip}", f"/v1/./vips/{vip}"),
        *(f"/healthz%2f..%2fv1%2fvips%2f{vip}", f"/v1/vips/{vip};/healthz", f"/V1/VIPS/{vip}"),
    )
    answers: dict[str, int] = {}

    async def run() -> Outcome:
        async with MuxClient(agents.url(tor), credentials=ground.credentials(server.name)) as client:
            for method in ("DELETE", "delete", "PUT", "POST", "PATCH"):
                for path in paths:
                    try:
                        headers = {"X-HTTP-Method-Override": "GET"}
                        await client.call(method, path, object, headers=headers)
                        answers["answered"] = answers.get("answered", 0) + 1
                    except RestError as error:
                        kind = str(error).partition(": ")[2][:3]
                        answers[kind] = answers.get(kind, 0) + 1
        return Outcome("answered" in answers, f"answers by status: {answers}")

    outcome = ground.act(server.name, run)
    held = ground.operate(lambda all_: _has(all_.muxes[tor.name], vip))
    return Outcome(outcome.succeeded or not held, outcome.seen)


async def _has(client: MuxClient, vip: IPv4Address) -> bool:
    return any(state.vip.address == vip for state in await client.get_vips())


@book.add("big-body", "a controller's certificate sends a body of gigabytes", "bounds on bodies")
def _(ground: Ground) -> Outcome:
    return _raw(ground, [_head(ground) + b"Content-Length: 4000000000\r\n\r\n", b" " * 65536], b"413")


@book.add("endless-body", "a body in chunks that does not end", "bounds on bodies")
def _(ground: Ground) -> Outcome:
    head = _head(ground) + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    return _raw(ground, [head, *[chunk] * 80], b"413")


@book.add("deep-json", "a body of a million brackets", "a parser with a bound")
def _(ground: Ground) -> Outcome:
    body = b"[" * 1_000_000
    return _raw(ground, [_head(ground) + b"Content-Length: %d\r\n\r\n" % len(body), body], b"4")


@book.add("long-header", "a header of a megabyte", "bounds on headers")
def _(ground: Ground) -> Outcome:
    return _raw(ground, [b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n"], b"400")


def _head(ground: Ground) -> bytes:
    """Return the beginning of a request that a ToR's agent would carry out."""
    tor = ground.some(Kind.TOR).name
    term = ground.operate(lambda all_: all_.muxes[tor].digest()).term
    return (
        b"PUT /v1/vips/10.0.0.1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nDuet-Term: %d\r\n" % term
    )


def _raw(ground: Ground, parts: Sequence[bytes], expected: bytes) -> Outcome:
    """Send bytes to a ToR's agent as the controller; it must refuse them, and serve on."""
    tor, context = ground.some(Kind.TOR), ground.credentials(CONTROLLER).client()
    host, _, port = agents.url(tor).removeprefix("https://").rpartition(":")

    async def send() -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            async with asyncio.timeout(20.0):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                return await reader.read()
        except (OSError, TimeoutError) as error:
            return f"- {type(error).__name__} {error}".encode()
        finally:
            writer.close()

    answer = ground.act("root", send)
    status = answer.split(b" ", 2)[1] if b" " in answer else b""
    refused = status.startswith(expected) or answer.startswith(b"- Connection")
    alive = ground.operate(lambda all_: all_.muxes[tor.name].health())
    return Outcome(not refused or alive.state != "ready", f"{answer[:40]!r}, then {alive.state}")


@book.add("slow-clients", "hundreds of connections with half a header each", "bounds on connections and time")
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)
    context = ground.credentials(server.name).client()
    host, _, port = agents.url(tor).removeprefix("https://").rpartition(":")

    async def hold() -> Outcome:
        writers = []
        for _ in range(_CLIENTS):
            try:
                _, writer = await asyncio.open_connection(host, int(port), ssl=context)
                writer.write(b"GET / HTTP/1.1\r\n")
                writers.append(writer)
            except OSError:
                continue
        try:
            reader = ground.credentials("reader")
            async with MuxClient(agents.url(tor), credentials=reader, timeout_s=5.0) as other:
                health = await other.health()
                open_ = sum(1 for writer in writers if not writer.transport.is_closing())
                return Outcome(False, f"another is answered ({health.state}) beside {open_} that wait")
        except RestError as error:
            return Outcome(True, f"others are not answered: {error}")
        finally:
            for writer in writers:
                writer.close()

    return ground.act(server.name, hold)


@book.add("event-streams", "a reader opens hundreds of event streams", "bounds on streams")
def _(ground: Ground) -> Outcome:
    context = ground.credentials("reader").client()

    async def hold() -> Outcome:
        writers, statuses = [], []
        try:
            for _ in range(_FOLLOWERS):
                reader, writer = await asyncio.open_connection(str(CONTROLLERS[0]), agents.PORT, ssl=context)
                writers.append(writer)
                writer.write(b"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(5.0):
                    statuses.append((await reader.readline()).split(b" ")[1].decode())
        except (OSError, TimeoutError) as error:
            statuses.append(type(error).__name__)
        finally:
            for writer in writers:
                writer.close()
        taken = statuses.count("200")
        return Outcome(taken >= _FOLLOWERS, f"{taken} streams, then {statuses[-1]}")

    return ground.act("root", hold)


@book.add("yaml-tricks", "a VIP file that runs commands, and one that grows without end", "a safe loader")
def _(ground: Ground) -> Outcome:
    trace = ground.folder.path / "state" / "owned"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    tricks = (
        f"vips: !!python/object/apply:os.system ['touch {trace}']",
        f"vips: [!!python/object/new:os.system ['touch {trace}']]",
        bomb + "vips: *m",
    )
    said = []
    for text in tricks:
        try:
            vipfile.parse(text, ground.graph)
            said.append("taken")
        except Exception as error:
            said.append(type(error).__name__)
    return Outcome("taken" in said or trace.exists(), f"refused as {', '.join(said)}")


@book.add(
    "p4runtime-theft", "a process of the switch's node that is not root outbids the agent", "file permissions"
)
def _(ground: Ground) -> Outcome:
    tor = ground.some(Kind.TOR)
    return _as_nobody(ground, tor.name, ground.folder.p4runtime(tor.name))


@book.add(
    "p4runtime-over-network",
    "a server opens P4Runtime at a ToR's loopback",
    "a Unix socket; the CPU's filter",
)
def _(ground: Ground) -> Outcome:
    tor, server = ground.some(Kind.TOR), ground.some(Kind.SERVER)

    def connect() -> Outcome:
        with socket.socket() as client:
            client.settimeout(0.5)
            try:
                client.connect((str(tor.loopback), 9559))
            except OSError as error:
                return Outcome(False, f"no connection: {error}")
            return Outcome(True, "connected")

    return ground.inside(server.name, connect)


@book.add(
    "controller-socket", "a user of the machine who is not root asks the controller", "file permissions"
)
def _(ground: Ground) -> Outcome:
    return _as_nobody(ground, "root", ground.folder.controller_socket(CONTROLLER))


def _as_nobody(ground: Ground, node: str, path: Path) -> Outcome:
    """Connect to a Unix socket as the user `nobody`, in a child process."""

    def connect() -> Outcome:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                os.write(write, b"connected")
            except OSError as error:
                os.write(write, f"no connection: {error}".encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as said:
            seen = said.read().decode()
        os.waitpid(child, 0)
        return Outcome(seen == "connected", seen)

    return ground.inside(node, connect)


@book.add("names", "a testbed's name, or a node's, leads out of its folder", "names are checked")
def _(ground: Ground) -> Outcome:
    from mininet_topos.testbed.folder import Folder, TestbedError

    taken = []
    for name in ("../../etc", "a/b", ".", "", "x" * 40, "a\0b", "Ä"):
        try:
            Folder(name)
            taken.append(name)
        except TestbedError:
            continue
    for name in ("../controller", "a/../../b", "a b", "*"):
        try:
            Identity(Role.SERVER, name)
            taken.append(name)
        except ValueError:
            continue
    return Outcome(bool(taken), f"taken: {taken}" if taken else "all are refused")


@book.add(
    "certificate-of-yesterday",
    "the controller's certificate, stolen before a rotation",
    "rotation",
    slow=True,
)
def _(ground: Ground) -> Outcome:
    tor = ground.some(Kind.TOR)
    with tempfile.TemporaryDirectory() as folder:
        for file in ground.folder.identity(CONTROLLER).iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        stolen = Credentials(Path(folder))
        asyncio.run(renew(ground.folder, lambda _: None))
        vip = _stolen_vip(ground)
        outcome = _ask(ground, "root", MuxClient, agents.url(tor), stolen, lambda client: client.put_vip(vip))
    wrong = ground.serves()
    return Outcome(outcome.succeeded or bool(wrong), f"{outcome.seen}{'; ' + wrong if wrong else ''}")
