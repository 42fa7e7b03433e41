"""Where programs are attached: by links, which `pins` may keep, or as classifiers on older kernels."""

from __future__ import annotations

import ctypes as c
import errno
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pyroute2 import netns

from duet_p4.bpf import libbpf
from duet_p4.bpf.errors import BpfError
from duet_p4.bpf.objects import Closable, Program

Mode = Literal["native", "skb"]
"""How XDP runs: in the driver, or on the kernel's socket buffers, which is slower and takes everything."""

_ATTACH = {"xdp": 37, "ingress": 46, "egress": 47}
_XDP_MODE = {"native": 1 << 2, "skb": 1 << 1}
_HOOK = {"ingress": 1 << 0, "egress": 1 << 1}
_REPLACE = 1 << 0
_PRIORITY, _HANDLE = 1, 0xD0E7
_NAMESPACE = Path("/proc/thread-self/ns/net")
_LINK_INFO = 64


class Link(Closable):
    """An attachment of a program. Closing it, or the end of the process, detaches, unless it is pinned."""

    def __init__(self, fd: int):
        self.fd = fd

    @property
    def ifindex(self) -> int:
        """The interface that it is on; 0 once that is gone, or somebody has detached the link."""
        return int(struct.unpack_from("=I", libbpf.object_info(self.fd, _LINK_INFO), 16)[0])

    def update(self, program: Program) -> None:
        """Put another program of the same kind in place, atomically for the packets."""
        libbpf.bpf_call(libbpf.BPF_LINK_UPDATE, struct.pack("=IIII", self.fd, program.fd, 0, 0))

    def close(self) -> None:
        """Let go of it, which detaches a link that is pinned nowhere; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Filter(Closable):
    """A program as a classifier (cls_bpf, direct action) of an interface's clsact qdisc.

    Closing it detaches, from whichever namespace that is done in. The end of the process does not: after
    kill -9 the program and its maps stay on the interface until the next `Filter` on the same interface and
    direction replaces them (priority and handle are fixed), or the interface or its namespace goes
    away. So there is one of them per interface and direction. The qdisc, which does nothing by itself,
    stays: others may have put filters there.
    """

    def __init__(self, program: Program, ifindex: int, direction: Literal["ingress", "egress"]):
        """Attach to an interface of the caller's network namespace. Raises OSError."""
        self._library = libbpf.library()
        self._hook = libbpf.TcHook(sz=c.sizeof(libbpf.TcHook), ifindex=ifindex, attach_point=_HOOK[direction])
        libbpf.take_warnings()
        code = self._library.bpf_tc_hook_create(self._hook)
        if code not in (0, -errno.EEXIST):
            raise OSError(-code, os.strerror(-code))
        options = _options(prog_fd=program.fd, flags=_REPLACE)
        code = self._library.bpf_tc_attach(self._hook, options)
        if code:
            raise OSError(-code, libbpf.take_warnings() or os.strerror(-code))
        self._program_id = int(options.prog_id)
        self._namespace = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Detach, unless a successor has taken the place; closing twice is harmless."""
        if self._namespace < 0:
            return
        try:
            _inside(self._namespace, self._detach)
        finally:
            os.close(self._namespace)
            self._namespace = -1

    def _detach(self) -> None:
        held = _options()
        libbpf.take_warnings()
        if self._library.bpf_tc_query(self._hook, held) or held.prog_id != self._program_id:
            return
        code = self._library.bpf_tc_detach(self._hook, _options())
        if code not in (0, -errno.ENOENT, -errno.ENODEV):
            raise OSError(-code, libbpf.take_warnings() or os.strerror(-code))


def attach_xdp(program: Program, ifindex: int, mode: Mode = "native") -> Link:
    """Attach an XDP program to an interface of the caller's network namespace.

    Raises BpfError with the reason, such as a program that is there already.
    """
    with _told(program, ifindex, f"{mode} XDP"):
        return _link(program, ifindex, _ATTACH["xdp"], _XDP_MODE[mode])


def attach_tc(program: Program, ifindex: int, direction: Literal["ingress", "egress"]) -> Link | Filter:
    """Attach a tc program to an interface of the caller's network namespace.

    As TCX, which ends with the process; where the kernel has none (before 6.6) as a `Filter`, which after
    kill -9 stays until the next one takes its place. Raises BpfError with the reason.
    """
    with _told(program, ifindex, f"tc {direction}"):
        try:
            return _link(program, ifindex, _ATTACH[direction], 0)
        except OSError as error:
            # What a kernel without TCX says of an attach type that it does not know.
            if error.errno != errno.EINVAL:
                raise
            return Filter(program, ifindex, direction)


def detach_tc(ifindex: int, direction: Literal["ingress", "egress"]) -> None:
    """Remove the `Filter` that a process has left on an interface; harmless where there is none."""
    hook = libbpf.TcHook(sz=c.sizeof(libbpf.TcHook), ifindex=ifindex, attach_point=_HOOK[direction])
    libbpf.library().bpf_tc_detach(hook, _options())


@contextmanager
def _told(program: Program, ifindex: int, what: str) -> Iterator[None]:
    """Say of what the kernel refuses which program it was, and where."""
    try:
        yield
    except OSError as error:
        reason = "another program is attached" if error.errno == errno.EBUSY else error.strerror
        raise BpfError(f"cannot attach {program.name} ({what}) to interface {ifindex}: {reason}") from error


def _link(program: Program, ifindex: int, point: int, flags: int) -> Link:
    # union bpf_attr is zero-extended by the kernel; TCX reads 16 bytes more than XDP does.
    attributes = struct.pack("=IIII", program.fd, ifindex, point, flags).ljust(40, b"\0")
    return Link(libbpf.bpf_call(libbpf.BPF_LINK_CREATE, attributes))


def _options(**more: int) -> libbpf.TcOptions:
    return libbpf.TcOptions(sz=c.sizeof(libbpf.TcOptions), handle=_HANDLE, priority=_PRIORITY, **more)


def _inside(namespace: int, work: Callable[[], None]) -> None:
    """Do something in a network namespace, in a thread where the caller is in another one."""
    if os.path.samestat(os.fstat(namespace), _NAMESPACE.stat()):
        work()
        return

    def there() -> None:
        netns.setns(namespace)
        work()

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(there).result()
