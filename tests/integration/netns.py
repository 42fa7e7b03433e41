"""Network namespaces for tests: unique names, removed whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns


def ip(arguments: str, namespace: str | None = None) -> str:
    """Run iproute2's `ip`, inside `namespace` if one is given, and return what it prints."""
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(where)} {arguments}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have the calling thread, and what it starts, live in `namespace`."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


@contextmanager
def namespaces(*roles: str) -> Iterator[list[str]]:
    """Create a namespace for each role; at the end, kill what runs in them and remove them.

    One that a test left which was killed, and had this process's number, goes.
    """
    names = [f"dt{os.getpid()}{role}" for role in roles]
    created: list[str] = []
    try:
        for name in names:
            if Path("/run/netns", name).exists():
                _remove(name)
            ip(f"netns add {name}")
            created.append(name)
            ip("link set lo up", name)
        yield names
    finally:
        for name in created:
            _remove(name)


def _remove(name: str) -> None:
    for pid in ip(f"netns pids {name}").split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    ip(f"netns del {name}")


def link(a: str, a_end: str, b: str, b_end: str) -> None:
    """Connect two namespaces by a veth pair whose ends are up."""
    ip(f"link add {a_end} netns {a} type veth peer name {b_end} netns {b}")
    ip(f"link set {a_end} up", a)
    ip(f"link set {b_end} up", b)
