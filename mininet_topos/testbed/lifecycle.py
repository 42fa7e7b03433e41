"""A testbed's life: up, down, and what is left of it in between when things go wrong."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import networkx as nx

from controller.web import gateway
from duet_p4.bpf import pins
from duet_p4.identity import Authority, Identity, Role
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import namespaces, preflight
from mininet_topos.testbed.folder import OPERATOR, READER, ROOT, Folder, TestbedError
from mininet_topos.testbed.nodes import controller_names
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Progress
from mininet_topos.testbed.supervisor import tail

_KILL_TIMEOUT_S = 4.0
_ROLES = {Kind.SMUX: Role.SMUX, Kind.SERVER: Role.SERVER, Kind.CLIENT: Role.READER}

Tell = Callable[[Progress], None]


def launch(folder: Folder, plan: Plan, tell: Tell) -> None:
    """Build the network and start every process; returns once all are started.

    Raises `TestbedError` before anything is built if something is missing; what fails later is taken
    down again.
    """
    preflight.check(folder, plan)
    with ExitStack() as stack:
        listener = stack.enter_context(_page_socket(plan.page_port)) if plan.page else None
        _launch(folder, plan, tell, listener)


def _page_socket(port: int | None) -> socket.socket:
    """Bind a socket for the page, in the namespace of the machine, where browsers are."""
    try:
        return gateway.bind(port)
    except OSError as error:
        raise TestbedError(f"the page cannot be served: {error.strerror}") from error


def _launch(folder: Folder, plan: Plan, tell: Tell, listener: socket.socket | None) -> None:
    graph = fattree.fattree(plan.size)
    plan = plan.model_copy(update={"flow_key": secrets.randbits(32)})
    folder.create()
    try:
        folder.plan.write_text(plan.model_dump_json(indent=2))
        tell(Progress(step="credentials"))
        _certify(folder, graph, plan.controllers)
        pins.mount(folder.bpf)
        namespaces.create(folder.root)
        _follow(_start_launcher(folder, listener), folder, tell)
    except BaseException:
        down(folder)
        raise


def down(folder: Folder) -> bool:
    """Remove all that a testbed left, whoever of it still lives; returns whether there was anything.

    Raises `TestbedError` naming the processes that did not end.
    """
    if not folder.path.exists():
        return False
    # The launcher is in a namespace of the testbed like all the others: nothing starts anything again.
    left = namespaces.kill(folder.bound(), _KILL_TIMEOUT_S)
    if left:
        raise TestbedError(
            f"processes {', '.join(map(str, left))} of testbed {folder.name!r} do not end, even when "
            "killed: they hang in the kernel; try again"
        )
    for path in folder.bound():
        namespaces.remove(path)
    pins.remove(folder.bpf)
    shutil.rmtree(folder.path)
    if not any(ROOT.iterdir()):
        ROOT.rmdir()
    return True


def _start_launcher(folder: Folder, listener: socket.socket | None) -> int:
    """Start the launcher in the testbed's root namespace; return the pipe that it reports to."""
    read, write = os.pipe()
    log = folder.log("launcher", "launcher")
    command = [sys.executable, "-m", "mininet_topos.testbed.launcher", folder.name, str(write)]
    kept = [write]
    if listener is not None:
        command.append(str(listener.fileno()))
        kept.append(listener.fileno())
    with namespaces.entered(folder.root), log.open("ab") as stream:
        subprocess.Popen(
            command,
            cwd="/",
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=kept,
            start_new_session=True,
        )
    os.close(write)
    return read


def _follow(pipe: int, folder: Folder, tell: Tell) -> None:
    with os.fdopen(pipe) as reports:
        for line in reports:
            progress = Progress.model_validate_json(line)
            if progress.error is not None:
                raise TestbedError(f"the launch failed: {progress.error}{_log_end(folder)}")
            tell(progress)
            if progress.ready:
                return
    raise TestbedError(f"the launcher ended before it was done{_log_end(folder)}")


def _log_end(folder: Folder) -> str:
    lines = tail(folder.log("launcher", "launcher"))
    return "".join(f"\n    {line}" for line in lines)


def _certify(folder: Folder, graph: nx.Graph, controllers: int) -> None:
    """Give everybody a certificate; the key that signs them is gone when this returns."""
    authority = Authority()
    for identity, addresses_ in _identities(graph, controllers):
        authority.issue(folder.identity(identity.name), identity, addresses_)


def _identities(graph: nx.Graph, controllers: int) -> Iterator[tuple[Identity, list[IPv4Address]]]:
    """Yield who needs a certificate, and where they answer."""
    for node in fattree.nodes(graph):
        if node.management is not None:
            yield Identity(_ROLES.get(node.kind, Role.SWITCH), node.name), [node.management.ip]
    for name, address in zip(controller_names(controllers), addresses.CONTROLLERS, strict=False):
        # Members of etcd look at where their peers speak from.
        yield Identity(Role.CONTROLLER, name), [address]
    yield Identity(Role.OPERATOR, OPERATOR), []
    yield Identity(Role.READER, READER), []
