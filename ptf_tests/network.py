"""A network of our own: a namespace without a name, with pairs of interfaces in it.

The namespace lives as long as a process is in it, so nothing is left behind however this one ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1
LINK_MTU = 2000
"""MTU of the interfaces, bytes: room for a full packet in a tunnel. What the P4 program may send is less."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Move this process into a new network namespace, with its loopback up and no IPv6.

    Raises PermissionError without CAP_SYS_ADMIN.
    """
    if _libc.unshare(CLONE_NEWNET):
        error = ctypes.get_errno()
        raise PermissionError(error, f"cannot make a network namespace: {os.strerror(error)}; run as root")
    # Else the kernel sends router solicitations on every new interface.
    for scope in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if path.exists():
            path.write_text("1")
    _run("ip", "link", "set", "lo", "up")


def add_pair(switch_side: str, test_side: str) -> None:
    """Make two interfaces joined by a wire, both up.

    The test's side has generic receive offload on: an XDP program may redirect to an interface only
    when its peer polls.
    """
    _run(
        *("ip", "link", "add", switch_side, "mtu", str(LINK_MTU), "type", "veth"),
        *("peer", "name", test_side, "mtu", str(LINK_MTU)),
    )
    for interface in (switch_side, test_side):
        _run("ethtool", "-K", interface, "tx", "off", "rxvlan", "off", "txvlan", "off")
        _run("ip", "link", "set", interface, "up")
    _run("ethtool", "-K", test_side, "gro", "on")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; for `preexec_fn`."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
