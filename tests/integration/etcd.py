"""Three members of etcd on loopback, and TCP proxies in front of them that can be cut."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from controller.cluster.etcd import EtcdClient
from controller.cluster.etcd_member import etcd_command
from controller.store.base import StoreError

MEMBERS = 3


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Etcd:
    """Three members that run; each can be stopped, and go on."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * MEMBERS)
        names = [f"etcd{number}" for number in range(MEMBERS)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
        peers = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports[MEMBERS:], strict=True)}
        self.log = folder / "etcd.log"
        with self.log.open("ab") as log:
            self.members = [
                subprocess.Popen(
                    etcd_command(name, folder / name, url, peers), stdout=log, stderr=log, cwd=folder
                )
                for name, url in zip(names, self.urls, strict=True)
            ]

    def await_ready(self) -> None:
        """Wait until a majority answers."""

        async def ask() -> None:
            async with asyncio.timeout(60), EtcdClient(self.urls) as client:
                while True:
                    with suppress(StoreError):
                        await client.get("anything")
                        return
                    await asyncio.sleep(0.05)

        try:
            asyncio.run(ask())
        except TimeoutError:
            pytest.fail(f"etcd does not come up: {self.log.read_text()[-2000:]}")

    def close(self) -> None:
        """End them."""
        for member in self.members:
            member.send_signal(signal.SIGCONT)
            member.kill()
            member.wait()


@contextmanager
def etcd_cluster() -> Iterator[Etcd]:
    """Run three members while the context lasts; skips, and says why, where there is no etcd."""
    if shutil.which("etcd") is None:
        pytest.skip("there is no etcd here (Debian: etcd-server)")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        etcd = Etcd(Path(folder))
        try:
            etcd.await_ready()
            yield etcd
        finally:
            etcd.close()


class Proxy:
    """A way to a member that can be cut: what is under way is lost, and nothing is answered any more."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut = False
        self.deaf = False
        """Requests go through, and their answers do not."""

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        reader, writer = await asyncio.open_connection(*self._target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(client, writer, answers=False))
            group.create_task(self._carry(reader, back, answers=True))

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                if not self.cut and not (answers and self.deaf):
                    sink.write(piece)
                    await sink.drain()
            sink.close()


@asynccontextmanager
async def proxied(urls: list[str]) -> AsyncIterator[tuple[list[str], list[Proxy]]]:
    """Yield other URLs of some members, and what can cut them."""
    async with AsyncExitStack() as stack:
        proxies = [Proxy(url) for url in urls]
        found = []
        for proxy in proxies:
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            found.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield found, proxies


async def answers(url: str) -> bool:
    """Return whether a controller says that it is ready."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=2.0) as client:
        with suppress(httpx.HTTPError):
            return (await client.get("/healthz")).is_success
    return False
