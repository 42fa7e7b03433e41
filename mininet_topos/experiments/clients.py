"""Processes in a testbed's nodes that hold live connections (`connections`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address

from mininet_topos.experiments.connections import Outcome, Report
from mininet_topos.experiments.setting import PROBER, Running
from mininet_topos.testbed import namespaces

_REMOTE = "outside"
_REMOTE_PORT = 8080


class Client:
    """The process that holds the connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self, *, last: bool = False) -> tuple[Outcome, ...]:
        """Return what became of each connection since the last report; raises RuntimeError if it ended.

        Those that broke are replaced, unless this is the `last` report.
        """
        self.order(last=last)
        return self.reported()

    def order(self, *, last: bool = False) -> None:
        """Have it report; see `reported`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("last\n" if last else "report\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def reported(self) -> tuple[Outcome, ...]:
        """Return the report that was ordered; raises RuntimeError if the process ended."""
        return Report.model_validate_json(self.line()).outcomes

    def line(self) -> str:
        """Return what the process prints next."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the client ended: {self._process.stderr.read().strip()}")
        return line


@contextmanager
def connected(
    testbed: Running, vips: Iterable[IPv4Address], connections: int, client: str = PROBER, datagrams: int = 0
) -> Iterator[Client]:
    """Have live connections, and UDP flows, from a client to the VIPs together."""
    counts = ["--connections", str(connections), "--datagrams", str(datagrams)]
    with _running(
        testbed, client, "mininet_topos.experiments.connections", *map(str, vips), *counts
    ) as found:
        yield found


@contextmanager
def connected_out(
    testbed: Running, vip: IPv4Address, servers: dict[IPv4Address, str], connections: int
) -> Iterator[list[Client]]:
    """Have so many live connections of each DIP, by its server, through a VIP's SNAT to the outside."""
    remote = str(testbed.graph.nodes[_REMOTE]["node"].address)
    with ExitStack() as stack:
        serving = [remote, "--http", str(_REMOTE_PORT), "--ready"]
        stack.enter_context(_running(testbed, _REMOTE, "duet_p4.dip_server", *serving))
        yield [
            stack.enter_context(
                _running(
                    testbed,
                    server,
                    "mininet_topos.experiments.connections",
                    *(remote, "--http", str(_REMOTE_PORT), "--connections", str(connections)),
                    *("--source", str(dip), "--seen-as", str(vip)),
                )
            )
            for dip, server in servers.items()
        ]


def reports(clients: Sequence[Client]) -> tuple[Outcome, ...]:
    """Return what became of each connection of several processes since the last report."""
    for client in clients:
        client.order()
    return tuple(outcome for client in clients for outcome in client.reported())


@contextmanager
def _running(testbed: Running, node: str, module: str, *options: str) -> Iterator[Client]:
    """Run a module in a node's namespace until the end of the block, from when it says that it is ready."""
    with namespaces.entered(testbed.folder.namespace(node)):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            holder = Client(process)
            holder.line()
            yield holder
        finally:
            process.kill()
