"""The ports of a switch, and the program that runs on them as native XDP.

The CPU port is a TAP device of this process: a packet-out is written to it and enters the program like
any packet, a packet-in is redirected into it and read from it. Programs are attached by BPF links and the
TAP is not persistent, so however the process ends, the ports go quiet and nothing stays behind.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from finsy.proto import p4i

from duet_p4 import bpf
from duet_p4.xdp_switch.pipeline import XdpPipeline

MAX_PORT = 510
"""Ports are 0 to 510: 511 is BMv2's drop port."""

_MAX_IFINDEX = 65536
_DEVMAP, _ARRAY = 14, 2
_TUNSETIFF, _IFF_TAP_NO_PI = 0x400454CA, 0x1002
_SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFTXQLEN, _IFF_UP = 0x8914, 0x8922, 0x8943, 1
_CPU_MTU = 3000
_CPU_QUEUE = 4096
_MAX_FRAME = 65536


@dataclass(slots=True)
class _Port:
    interface: str
    ifindex: int
    link: bpf.Link | None = None


class XdpDevice:
    """A switch's ports in this network namespace; see `dataplane.Device`."""

    def __init__(self, cpu_port: int | None = None) -> None:
        """Make a switch without ports, but with a CPU port where one is given; needs root."""
        self._shared = {
            "egress_ports": bpf.create_map(_DEVMAP, "egress_ports", 4, 4, MAX_PORT + 2),
            "ingress_ports": bpf.create_map(_ARRAY, "ingress_ports", 4, 4, _MAX_IFINDEX),
        }
        self._ports: dict[int, _Port] = {}
        self._pipeline: XdpPipeline | None = None
        self.packet_in_fd: int | None = None
        if cpu_port is not None:
            self.packet_in_fd, interface = _open_tap()
            self.add_port(cpu_port, interface)

    def add_port(self, number: int, interface: str) -> None:
        """Add an interface as a port.

        Raises ValueError for a number in use or out of range, OSError where there is no such interface,
        BpfError where XDP cannot be attached to it.
        """
        if not 0 <= number <= MAX_PORT:
            raise ValueError(f"port {number} is out of range: ports are 0 to {MAX_PORT}")
        if number in self._ports:
            raise ValueError(f"port {number} is {self._ports[number].interface} already")
        try:
            ifindex = socket.if_nametoindex(interface)
        except OSError as error:
            raise OSError(error.errno, f"there is no interface {interface} for port {number}") from None
        if ifindex >= _MAX_IFINDEX:
            raise ValueError(f"interface {interface} has index {ifindex}, above {_MAX_IFINDEX - 1}")
        port = _Port(interface, ifindex)
        if self._pipeline is not None:
            port.link = bpf.attach_xdp(self._pipeline.program, ifindex)
        self._shared["ingress_ports"].update(_u32(ifindex), _u32(number + 1))
        self._shared["egress_ports"].update(_u32(number), _u32(ifindex))
        self._ports[number] = port

    def verify(self, config: bytes, info: p4i.P4Info) -> None:
        """Compile a program and let the kernel verify it."""
        XdpPipeline(config, info, self._shared).close()

    def load(self, config: bytes, info: p4i.P4Info) -> XdpPipeline:
        """Put a program on all ports in place of the one before."""
        pipeline = XdpPipeline(config, info, self._shared)
        if self.packet_in_fd is not None:
            pipeline.packet_out = self._send  # type: ignore[method-assign]
        fresh: list[_Port] = []
        try:
            for port in self._ports.values():
                if port.link is None:
                    port.link = bpf.attach_xdp(pipeline.program, port.ifindex)
                    fresh.append(port)
        except BaseException:
            for port in fresh:
                _detach(port)
            pipeline.close()
            raise
        for port in self._ports.values():
            if port.link is not None and port not in fresh:
                port.link.update(pipeline.program)
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = pipeline
        return pipeline

    def receive(self) -> bytes | None:
        """Return the next packet-in, or None where there is none now."""
        if self.packet_in_fd is None:
            return None
        try:
            return os.read(self.packet_in_fd, _MAX_FRAME)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Detach from every port and free everything."""
        for port in self._ports.values():
            _detach(port)
        self._ports.clear()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        if self.packet_in_fd is not None:
            os.close(self.packet_in_fd)
            self.packet_in_fd = None
        for shared in self._shared.values():
            shared.close()

    def _send(self, frame: bytes) -> None:
        if self.packet_in_fd is None:
            raise ValueError("the switch is closed")
        os.write(self.packet_in_fd, frame)


def _open_tap() -> tuple[int, str]:
    """Make the CPU port's TAP device and return its file descriptor and name."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"p4cpu%d", _IFF_TAP_NO_PI))
        name = request[:16].rstrip(b"\0")
        # Without IPv6 the kernel has nothing to say on it, and all that is read is packet-in.
        Path(f"/proc/sys/net/ipv6/conf/{name.decode()}/disable_ipv6").write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name, _CPU_MTU))
            fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name, _CPU_QUEUE))
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
    except BaseException:
        os.close(fd)
        raise
    return fd, name.decode()


def _detach(port: _Port) -> None:
    if port.link is not None:
        port.link.close()
        port.link = None


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
