"""A P4Runtime server with the program features.p4, in front of a data plane in memory or of XDP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.transport import create_server
from tests.unit.p4runtime.client import Client
from tests.unit.p4runtime.memory import MemoryDevice

HERE = Path(__file__).parent
INFO = text_format.Parse((HERE / "features.p4info.txtpb").read_text(), p4i.P4Info())
CONFIG = (HERE / "features.json").read_bytes()


class ServerThread:
    """A server on an event loop of its own."""

    def __init__(self, device: MemoryDevice) -> None:
        self.device = device
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server, self.address = self._run(self._start())

    async def _start(self) -> tuple[grpc.aio.Server, str]:
        self._service = P4RuntimeService(self.device, 1)
        server = create_server(self._service)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._service.start()
        return server, f"127.0.0.1:{port}"

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _stop(self) -> None:
        self._service.stop()
        await self._server.stop(None)
        # A call that was open is still ending; closing the loop under it would be heard in a later test.
        ending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def stop(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture
def device() -> Iterator[MemoryDevice]:
    device = MemoryDevice()
    yield device
    device.close()


@pytest.fixture
def bare(device: MemoryDevice) -> Iterator[Client]:
    """A client of a switch that has no pipeline yet."""
    server = ServerThread(device)
    client = Client(server.address, INFO, CONFIG)
    yield client
    client.channel.close()
    server.stop()


@pytest.fixture
def client(bare: Client) -> Client:
    """A client of a switch that runs features.p4; nobody is primary, so it may write."""
    bare.push()
    return bare
