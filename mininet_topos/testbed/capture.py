"""Packets on a link, both ways, as a pcap: also those that native XDP forwards, which tcpdump cannot see.

What travels on a link is what arrives at its two ends. An end with an XDP program gets a program put
before it that copies each packet to a ring buffer and goes on to the first; an end without one is
listened to with a packet socket.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import networkx as nx
from pyroute2 import IPRoute

from duet_p4.bpf import Link, Map, Object, Program, compile_object, libbpf
from mininet_topos import fattree
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.names import hint

SOURCE = Path(__file__).with_name("bpf") / "capture.c"

_PROG_GET_FD_BY_ID = 13
_LINK_TYPE_XDP = 6
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_RECORD_HEAD = struct.Struct("=QII")
_SNAP_LENGTH = 2048
_PCAP_HEAD = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _SNAP_LENGTH, 1)
_ETH_P_ALL = 3
_OUTGOING = 4
_SO_TIMESTAMPNS = 35


@dataclass(frozen=True)
class End:
    """One end of the link to capture on."""

    namespace: Path
    interface: str


@dataclass(frozen=True)
class Packet:
    """A captured packet: seconds since the epoch in ns, its length on the wire, what was kept of it."""

    nanoseconds: int
    length: int
    frame: bytes


class _Source:
    """Where packets of one end come from: a descriptor to wait on, and what to read when it is ready."""

    def __init__(self, descriptor: int, read: Callable[[], Iterator[Packet]]) -> None:
        self.descriptor = descriptor
        self.read = read


def ends(folder: Folder, graph: nx.Graph, node: str, port: str) -> tuple[End, End]:
    """Return both ends of the link at a node's port, given as `eth1`, `1` or the neighbour's name."""
    if node not in graph:
        raise TestbedError(f"testbed {folder.name!r} has no node {node!r}: {hint(node, graph)}")
    links = fattree.links(graph, node)
    for link in links:
        own, peer = link.port(node), link.peer(node)
        if port in (own.name, str(own.number), peer.node):
            return End(folder.namespace(node), own.name), End(folder.namespace(peer.node), peer.name)
    ports = ", ".join(f"{link.port(node).name} to {link.peer(node).node}" for link in links)
    raise TestbedError(f"{node} has no port {port!r}; it has {ports}")


def capture(link: Sequence[End], output: IO[bytes], count: int | None, seconds: float | None) -> int:
    """Write the packets on a link as a pcap, until there are `count`, or for some time, or until Ctrl-C.

    Returns how many were written. Afterwards the ends are as before, also if this process is killed.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    written = 0
    with _interruption() as interrupted, ExitStack() as stack, suppress(BrokenPipeError):
        found = {source.descriptor: source for source in (stack.enter_context(_source(end)) for end in link)}
        for source in found.values():
            list(source.read())  # What came before both ends were listened to is of one way only.
        output.write(_PCAP_HEAD)
        output.flush()
        poll = select.poll()
        for descriptor in (*found, interrupted):
            poll.register(descriptor, select.POLLIN)
        ended = False
        while not ended and (deadline is None or time.monotonic() < deadline):
            wait = None if deadline is None else 1000 * (deadline - time.monotonic())
            readable = [descriptor for descriptor, _ in poll.poll(wait)]
            ended = interrupted in readable
            ready = [packet for fd in readable if fd != interrupted for packet in found[fd].read()]
            for packet in sorted(ready, key=lambda packet: packet.nanoseconds):
                if written == count:
                    return written
                seconds_, rest = divmod(packet.nanoseconds, 10**9)
                head = struct.pack("=IIII", seconds_, rest, len(packet.frame), packet.length)
                output.write(head + packet.frame)
                written += 1
            output.flush()
            if written == count:
                return written
    return written


@contextmanager
def _interruption() -> Iterator[int]:
    """Offer a descriptor that can be read once Ctrl-C was pressed, which then raises nothing anywhere."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGINT, lambda *_: os.write(write, b"\0"))
    try:
        yield read
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(read)
        os.close(write)


def attached(end: End) -> tuple[Link, Program]:
    """Return what attaches an end's XDP program, and the program. Raises `TestbedError`."""
    ifindex, program_id = _program_on(end)
    if program_id is None:
        raise TestbedError(f"port {end.interface!r} in {end.namespace.name} has no XDP program")
    return _attachment(ifindex, program_id)


@contextmanager
def _source(end: End) -> Iterator[_Source]:
    ifindex, program_id = _program_on(end)
    if program_id is None:
        with namespaces.entered(end.namespace):
            listener = _packet_socket(end.interface)
        with listener:
            yield _Source(listener.fileno(), lambda: _from_socket(listener))
    else:
        with _before(ifindex, program_id) as ring:
            yield _Source(ring.fd, ring.packets)


def _program_on(end: End) -> tuple[int, int | None]:
    """Return an end's interface index, and the number of its XDP program, if it has one."""
    with namespaces.entered(end.namespace), IPRoute() as netlink:
        found = netlink.link_lookup(ifname=end.interface)
        if not found:
            raise TestbedError(f"there is no port {end.interface!r} in {end.namespace.name}")
        program = netlink.get_links(found[0])[0].get_attr("IFLA_XDP")
        return found[0], program.get_attr("IFLA_XDP_PROG_ID") if program else None


def _attachment(ifindex: int, program_id: int) -> tuple[Link, Program]:
    link = Link(_find_link(ifindex, program_id))
    own = libbpf.bpf_call(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    return link, Program("the port's own", own)


def _packet_socket(interface: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    listener.bind((interface, _ETH_P_ALL))
    listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    return listener


def _from_socket(listener: socket.socket) -> Iterator[Packet]:
    with suppress(BlockingIOError):
        while True:
            frame, extra, _, address = listener.recvmsg(65_536, 128)
            if address[2] != _OUTGOING:
                seconds, rest = struct.unpack("qq", extra[0][2])
                yield Packet(seconds * 10**9 + rest, len(frame), frame[:_SNAP_LENGTH])


@contextmanager
def _before(ifindex: int, program_id: int) -> Iterator[_Ring]:
    """Put the capturing program before a port's own one."""
    link, own = _attachment(ifindex, program_id)
    with Object(compile_object(SOURCE)) as object_:
        object_.load()
        object_.map("own_program").update(struct.pack("=I", 0), struct.pack("=I", own.fd))
        with _restored(link, own):
            link.update(object_.program("capture"))
            yield _Ring(object_.map("records"))


@contextmanager
def _restored(link: Link, own: Program) -> Iterator[None]:
    """Put the port's own program back when the block ends, or this process does.

    A second process watches for that: a port whose program is gone would drop everything.
    """
    parent = os.pidfd_open(os.getpid())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(write)
            poll = select.poll()
            poll.register(parent, select.POLLIN)
            poll.register(read, select.POLLIN)
            poll.poll()
            link.update(own)
        finally:
            os._exit(0)
    os.close(read)
    os.close(parent)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(child, 0)


def _find_link(ifindex: int, program_id: int) -> int:
    """Return a descriptor of the link that attaches a program to an interface."""
    library = libbpf.library()
    link_id = ctypes.c_uint32(0)
    while library.bpf_link_get_next_id(link_id, ctypes.byref(link_id)) == 0:
        descriptor = library.bpf_link_get_fd_by_id(link_id)
        if descriptor < 0:
            continue  # It went away meanwhile.
        info = ctypes.create_string_buffer(64)
        size = ctypes.c_uint32(len(info))
        if library.bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(size)) == 0:
            # struct bpf_link_info: type, id, prog_id, padding, xdp.ifindex. Interfaces of different
            # namespaces may have the same index, but not with the same program.
            kind, _, its_program, _, its_interface = struct.unpack_from("=IIIII", info)
            if (kind, its_program, its_interface) == (_LINK_TYPE_XDP, program_id, ifindex):
                return int(descriptor)
        os.close(descriptor)
    raise TestbedError(
        "the port's XDP program was not attached by a BPF link, so nothing can be put before it"
    )


class _Ring:
    """Reads a BPF ring buffer: one page of the consumer's position, one of the producer's, then data."""

    def __init__(self, ring: Map) -> None:
        page = mmap.PAGESIZE
        self.fd = ring.fd
        self._size = ring.max_entries
        self._consumer = mmap.mmap(ring.fd, page, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that no record is split at the end.
        self._producer = mmap.mmap(ring.fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)
        self._to_epoch = time.time_ns() - time.monotonic_ns()

    def packets(self) -> Iterator[Packet]:
        """Yield the packets that are there."""
        position = struct.unpack_from("=Q", self._consumer)[0]
        while position < struct.unpack_from("=Q", self._producer)[0]:
            start = mmap.PAGESIZE + position % self._size
            head = struct.unpack_from("=I", self._producer, start)[0]
            if head & _BUSY:
                return
            length = head & ~(_BUSY | _DISCARDED)
            if not head & _DISCARDED:
                nanoseconds, _, wire = _RECORD_HEAD.unpack_from(self._producer, start + 8)
                first = start + 8 + _RECORD_HEAD.size
                frame = self._producer[first : first + min(wire, _SNAP_LENGTH)]
                yield Packet(nanoseconds + self._to_epoch, wire, frame)
            position += (length + 8 + 7) // 8 * 8
            struct.pack_into("=Q", self._consumer, 0, position)
