"""The inner ports of a switch: veth pairs that packets pass between two passes, or go into to wait.

They are in a network namespace of the switch's own, which has no name and is held by a file descriptor: when
the process ends, in whatever way, the kernel frees it.
"""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyroute2 import IPRoute

from duet_p4 import bpf
from duet_p4.bpf.attach import Mode

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_MTU: dict[Mode, int] = {"native": 3400, "skb": 65535}
_RECEIVE_BYTES = 4 << 20
_PAIRS = (("again", "next"),)
_QUEUE = ("leave_queue", "hold")
"""Interfaces, a pair each, with the programs of the same names on them."""
_INTO = ("next", "again", "leave_queue")
"""The interface that each cell of `inner_ports` sends into: what goes into one end comes in by the other."""


class InnerPorts:
    """The pairs, with their programs; see include/replicate.h and include/queue.h."""

    def __init__(self, loaded: bpf.Object, mode: Mode = "native", *, queues: bool = False) -> None:
        """Make the pairs, one more for `queues`, and attach programs. Raises OSError, BpfError."""
        self._mode = mode
        self._pairs = (*_PAIRS, _QUEUE) if queues else _PAIRS
        self._links: list[bpf.Link] = []
        self._namespace = -1
        self.waiting: socket.socket | None = None
        """What packets that are to wait come in by, and go back by."""
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(self._make, loaded).result()
            except BaseException:
                self.close()
                raise

    def _make(self, loaded: bpf.Object) -> None:
        """Do all there is to do, in a thread that moves into the new namespace and ends there."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)} (a network namespace for packets between two passes)")
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        indices: dict[str, int] = {}
        with IPRoute() as netlink:
            for one, other in self._pairs:
                netlink.link("add", ifname=one, kind="veth", peer={"ifname": other})
                indices |= {name: netlink.link_lookup(ifname=name)[0] for name in (one, other)}
            for name, index in indices.items():
                netlink.link("set", index=index, mtu=_MTU[self._mode], arp=False, address="02:00:00:00:00:01")
                ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
                if ipv6.exists():
                    ipv6.write_text("1", encoding="ascii")
            if "hold" in indices:
                self.waiting = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
                self.waiting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
                self.waiting.bind(("hold", _ETH_P_ALL))
            for name, index in indices.items():
                self._links.append(bpf.attach_xdp(loaded.program(name), index, self._mode))
                netlink.link("set", index=index, state="up")
        inner = loaded.map("inner_ports")
        for key, name in enumerate(_INTO):
            if name in indices:
                inner.update(key.to_bytes(4, "little"), indices[name].to_bytes(4, "little"))

    def close(self) -> None:
        """Detach and let the kernel free the pairs."""
        if self.waiting is not None:
            self.waiting.close()
        for link in self._links:
            link.close()
        self._links.clear()
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1
