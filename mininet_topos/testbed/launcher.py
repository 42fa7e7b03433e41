"""The launcher: builds the network, starts the processes, watches them, and answers on a socket.

It runs in the root namespace of its testbed and knows nothing of BGP or VIPs: it is to the testbed what
an init system and a power switch are to a data centre.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import networkx as nx
from pydantic import ValidationError

from duet_p4 import log
from duet_p4.bpf import compile_object, pins
from mininet_topos import addresses, fattree, shipped
from mininet_topos.testbed import wiring
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.names import hint
from mininet_topos.testbed.nodes import controller_names, plan_processes
from mininet_topos.testbed.plan import Plan, Target
from mininet_topos.testbed.protocol import Answer, Progress, Request
from mininet_topos.testbed.routing import passwords
from mininet_topos.testbed.supervisor import Supervisor

logger = logging.getLogger(__name__)

_SWEEP_TIMEOUT_S = 3.0
_HALTED_S = 0.5
_CRASHES_TOLD = 50


class Launcher:
    """A testbed that is up."""

    def __init__(self, folder: Folder, plan: Plan, report: Reporter, page: int | None) -> None:
        self.folder = folder
        self.graph: nx.Graph = fattree.fattree(plan.size)
        self.failed: dict[str, list[tuple[Path, str]]] = {}
        self._page = page
        self._halted: dict[str, float] = {}
        report(Progress(step="network", total=len(self.graph)))
        wiring.prepare_root(folder.root, plan.controllers)
        if plan.controllers > 1:
            self._add_controllers(plan.controllers)
        wiring.build(folder, self.graph, plan.controllers)
        if plan.target is Target.BMV2:
            switches = [node for node in fattree.nodes(self.graph) if node.is_switch]
            wiring.enable_napi(
                {
                    folder.namespace(node.name): [
                        link.port(node.name).name for link in fattree.links(self.graph, node.name)
                    ]
                    for node in switches
                }
            )
        report(Progress(step="programs"))
        _make_objects()
        wanted = plan_processes(self.graph, folder, plan, passwords(self.graph), page)
        wanted.write()
        self.supervisor = Supervisor(wanted.processes, self._open_descriptors)
        self.listener = _listen(folder.socket)
        report(Progress(step="processes", total=len(wanted.processes)))
        self.supervisor.start()

    def run(self) -> None:
        """Serve until killed."""
        while True:
            due = _first(self.supervisor.tick(), self._end_halted())
            poll = select.poll()
            for descriptor in (self.listener.fileno(), *self.supervisor.descriptors()):
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(None if due is None else 1000 * due + 1):
                if descriptor == self.listener.fileno():
                    self._serve()
                else:
                    self.supervisor.reap(descriptor)

    def _add_controllers(self, count: int) -> None:
        managers = addresses.managers(count)
        agents = [node.management.ip for node in fattree.nodes(self.graph) if node.management is not None]
        for name, own in zip(controller_names(count), addresses.CONTROLLERS, strict=False):
            others = [address for address in (*managers, *agents) if address != own]
            wiring.add_controller(self.folder.root, self.folder.namespace(name), own, others)

    def answer(self, request: Request) -> Answer:
        """Carry out a request; raises `TestbedError` if it names nothing there is."""
        match request.do:
            case "fail":
                self._fail(request.what or "")
            case "restore":
                for what in [request.what] if request.what else list(self.failed):
                    self._restore(what)
            case "status":
                return Answer(
                    ready=True,
                    processes=tuple(self.supervisor.statuses()),
                    crashes=tuple(self.supervisor.crashes[-_CRASHES_TOLD:]),
                    failed=tuple(self.failed),
                )
        return Answer(ready=True, failed=tuple(self.failed))

    def _fail(self, what: str) -> None:
        if what in self.failed:
            raise TestbedError(f"{what} has failed already: `duet testbed restore {what}` brings it back")
        ports = self._ports(what)
        try:
            with _at_once():
                self._set(ports, up=False)
        except OSError as error:
            with suppress(OSError):
                self._set(ports, up=True)
            raise TestbedError(f"{what} cannot be made to fail: {error}") from error
        if what in self.graph:
            # A switch that dies costs its neighbours nothing, but the end of its processes would take the
            # CPU from theirs, just when those have something to do. So they halt now, and end a little later.
            self.supervisor.halt(what)
            self._halted[what] = time.monotonic() + _HALTED_S
        self.failed[what] = ports
        logger.info("failed %s", what)

    def _restore(self, what: str) -> None:
        if what not in self.failed:
            self._ports(what)
            raise TestbedError(f"{what} has not failed")
        self._end_halted(what)
        ports = self.failed.pop(what)
        still_down = {port for others in self.failed.values() for port in others}
        self._set([port for port in ports if port not in still_down], up=True)
        if what in self.graph:
            self.supervisor.start(what)
        logger.info("restored %s", what)

    def _end_halted(self, now: str | None = None) -> float | None:
        """End the processes of failed nodes that are due, or of the one that cannot wait.

        Returns the seconds until the next are due.
        """
        for what in [what for what, due in self._halted.items() if what == now or due <= time.monotonic()]:
            del self._halted[what]
            self.supervisor.stop(what)
            self.supervisor.sweep(what, _SWEEP_TIMEOUT_S)
            # Without power, the kernel and all that it kept for the node's agents is gone too.
            pins.remove(self.folder.pins(what))
        return max(0.0, min(self._halted.values()) - time.monotonic()) if self._halted else None

    def _set(self, ports: Sequence[tuple[Path, str]], *, up: bool) -> None:
        for path in dict.fromkeys(path for path, _ in ports):
            wiring.set_ports(path, [name for its, name in ports if its == path], up=up)

    def _ports(self, what: str) -> list[tuple[Path, str]]:
        """Return the ports to bring down for a node or link to fail.

        Those of switches only: a host whose own interface went down would lose its routes for good,
        while one whose peer did sees the cable pulled.
        """
        one, dash, other = what.partition("-")
        if dash and self.graph.has_edge(one, other):
            links = [self.graph.edges[one, other]["link"]]
        elif what in self.graph:
            links = fattree.links(self.graph, what)
        else:
            raise TestbedError(
                f"there is no node or link {what!r}: {hint(what, [*self.graph, *self._links()])}; "
                "a link is two nodes, such as tor1-agg1"
            )
        by_name = {node.name: node for node in fattree.nodes(self.graph)}
        ends = [port for link in links for port in link.ends if by_name[port.node].is_switch]
        if what in self.graph and by_name[what].is_switch:
            ends = [port for port in ends if port.node == what]
        ports = [(self.folder.namespace(port.node), port.name) for port in ends]
        if what in self.graph and by_name[what].management is not None:
            # A node that is dead says nothing on the management network either, not even "no".
            ports.append((self.folder.root, wiring.management_end(by_name[what])))
        return ports

    def _links(self) -> list[str]:
        ends = [[port.node for port in link.ends] for link in fattree.links(self.graph)]
        return ["-".join(pair) for pair in ends if all(not name.startswith("server") for name in pair)]

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(5)
            try:
                with connection.makefile() as stream:
                    request = Request.model_validate_json(stream.readline())
                answer = self.answer(request)
            except TestbedError as error:
                answer = Answer(error=str(error))
            except (ValidationError, OSError) as error:
                answer = Answer(error=f"the launcher cannot make sense of the request: {error}")
            try:
                connection.sendall(answer.model_dump_json().encode() + b"\n")
            except OSError as error:
                logger.warning("an answer was not taken: %s", error)

    def _open_descriptors(self) -> list[int]:
        page = () if self._page is None else (self._page,)
        return [self.listener.fileno(), *page, *self.supervisor.descriptors()]


class Reporter:
    """Tells whoever started the launcher how far it is, over a pipe that they may have closed."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: int | None = descriptor

    def __call__(self, progress: Progress) -> None:
        """Send one step; the last one closes the pipe."""
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, progress.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            logger.warning("nobody waits for this launch any more; it goes on")
        if progress.ready or progress.error is not None:
            os.close(self._pipe)
            self._pipe = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the launcher of the testbed named first, reporting to the descriptor given second.

    A third is the bound socket of the page.
    """
    name, descriptor, *sockets = argv or sys.argv[1:]
    page = int(sockets[0]) if sockets else None
    folder = Folder(name)
    log.setup("launcher")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for kept in (descriptor, *sockets):
        os.set_inheritable(int(kept), False)
    report = Reporter(int(descriptor))
    try:
        plan = Plan.model_validate_json(folder.plan.read_text())
        launcher = Launcher(folder, plan, report, page)
    except Exception as error:
        logger.exception("the launch failed")
        report(Progress(step="failed", error=f"{type(error).__name__}: {error}"))
        return 1
    report(Progress(step="launched", ready=True))
    launcher.run()
    return 0


def _make_objects() -> None:
    """Compile what set-up has not, as somebody who is not root: the processes may write no objects."""
    for source, defines in shipped.sources():
        compile_object(source, defines=defines)


def _first(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)


@contextmanager
def _at_once() -> Iterator[None]:
    """Run before ordinary processes, where that is allowed: a power cut waits for no scheduler."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    return listener


if __name__ == "__main__":
    sys.exit(main())
