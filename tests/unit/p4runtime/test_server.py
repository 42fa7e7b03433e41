"""The server as clients meet it: large requests, encryption, pings, crowds, and who does not listen."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import grpc
import pytest
from finsy.proto import p4r, p4r_grpc

from duet_p4.xdp_switch import cli
from duet_p4.xdp_switch.__main__ import _listen
from duet_p4.xdp_switch.p4runtime.arbitration import MAX_STREAMS, Arbitration
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.stream import QUEUE_LIMIT, Stream
from duet_p4.xdp_switch.p4runtime.transport import create_server
from tests.unit.p4runtime.client import Client
from tests.unit.p4runtime.memory import MemoryDevice


def test_a_request_of_many_megabytes_is_taken(client: Client) -> None:
    config = p4r.ForwardingPipelineConfig()
    config.CopyFrom(client.config)
    config.p4_device_config = b"x" * (20 << 20)
    client.push(config=config)


def test_a_client_that_pings_often_is_not_sent_away(client: Client) -> None:
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    with grpc.insecure_channel(client.address, options) as channel:
        stub = p4r_grpc.P4RuntimeStub(channel)
        deadline = time.monotonic() + 3.5
        while time.monotonic() < deadline:
            stub.Capabilities(p4r.CapabilitiesRequest(), timeout=5)
            time.sleep(0.5)


def test_malformed_messages_leave_nothing_behind(client: Client) -> None:
    """Not even the tracebacks of the errors that they got, which keep frames and all that is in them."""

    def send(method: str) -> grpc.StatusCode:
        path = f"/p4.v1.P4Runtime/{method}"
        try:
            if method == "StreamChannel":
                list(client.channel.stream_stream(path)(iter([b"\xff\xff\xff"]), timeout=10))
            else:
                client.channel.unary_unary(path)(b"\xff\xff\xff", timeout=10)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def tracebacks() -> int:
        gc.collect()
        return sum(isinstance(item, TracebackType) for item in gc.get_objects())

    methods = ("StreamChannel", "Write")
    assert {send(method) for method in methods} == {grpc.StatusCode.INVALID_ARGUMENT}
    before = tracebacks()
    for _ in range(100):
        for method in methods:
            send(method)
    deadline = time.monotonic() + 10
    while (more := tracebacks() - before) > 20:
        assert time.monotonic() < deadline, f"{more} tracebacks more than before 200 malformed messages"
        time.sleep(0.05)


def test_a_65th_controller_of_a_role_is_resource_exhausted() -> None:
    arbitration: Arbitration[int] = Arbitration(1)
    claim = p4r.MasterArbitrationUpdate(device_id=1)
    for number in range(MAX_STREAMS):
        arbitration.update(number, claim)
    with pytest.raises(P4RuntimeError, match="64 controllers"):
        arbitration.update(MAX_STREAMS, claim)
    other = p4r.MasterArbitrationUpdate(device_id=1, role=p4r.Role(name="other"))
    arbitration.update(MAX_STREAMS, other)
    arbitration.remove(0)
    arbitration.update(MAX_STREAMS + 1, claim)


def test_a_slow_controller_loses_packets_and_no_arbitration() -> None:
    async def run() -> None:
        listens, heard = asyncio.Event(), asyncio.Event()
        got: list[p4r.StreamMessageResponse] = []

        async def write(message: p4r.StreamMessageResponse) -> None:
            await listens.wait()
            got.append(message)
            if message.HasField("arbitration"):
                heard.set()

        stream = Stream(write)
        packet = p4r.StreamMessageResponse(packet=p4r.PacketIn(payload=b"x"))
        taken = sum(stream.offer(packet) for _ in range(QUEUE_LIMIT + 10))
        assert taken == QUEUE_LIMIT
        arbitration = p4r.StreamMessageResponse(arbitration=p4r.MasterArbitrationUpdate(device_id=1))
        stream.send(arbitration)
        listens.set()
        await asyncio.wait_for(heard.wait(), 10)
        assert len(got) == QUEUE_LIMIT + 1
        assert got[-1] == arbitration
        stream.close()

    asyncio.run(run())


@pytest.fixture
def pems(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """An authority, and certificates of a server and a client that it signed."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=tmp_path)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2)
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    for name in ("server", "client"):
        (tmp_path / "names").write_text("subjectAltName=DNS:localhost")
        openssl("req", *curve[:5], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem", "-days", 2)
    yield {path.name: path for path in tmp_path.iterdir()}


def test_the_server_speaks_mutual_tls(pems: dict[str, Path], tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    files = f"--grpc-server-cert {pems['server.pem']} --grpc-server-key {pems['server.key']}"
    clients = f"--grpc-server-cacert {pems['ca.pem']} --grpc-server-with-client-auth"
    line = f"--no-p4 -- --grpc-server-ssl {files} {clients} --grpc-server-addr {address}"
    authority = pems["ca.pem"].read_bytes()
    known = grpc.ssl_channel_credentials(
        authority, pems["client.key"].read_bytes(), pems["client.pem"].read_bytes()
    )

    async def ask(credentials: grpc.ChannelCredentials) -> str:
        name = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(address, credentials, name) as channel:
            answer = await p4r_grpc.P4RuntimeStub(channel).Capabilities(p4r.CapabilitiesRequest(), timeout=5)
            return str(answer.p4runtime_api_version)

    async def run() -> None:
        server = create_server(P4RuntimeService(MemoryDevice(), 1))
        _listen(server, cli.parse(line.split()))
        await server.start()
        assert await ask(known)
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(grpc.ssl_channel_credentials(authority))
        await server.stop(None)

    asyncio.run(run())
