"""Host interfaces: a TAP for every front-panel port, on which the switch's IP stack and BIRD live.

What the P4 switch punts is written to the TAP of the port it came in by; what the stack sends through a
TAP leaves by its port. A TAP has its port's Ethernet address, MTU and carrier.

A TAP lives as long as a process has it open. BIRD inherits the descriptors, so TAPs, sessions and
routes outlive the agent, and its successor fetches the descriptors back from BIRD.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from duet_p4 import netdev
from duet_p4.switch_agent.config import PortConfig

logger = logging.getLogger(__name__)

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_TUNSETCARRIER = 0x400454E2
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_SYS_PIDFD_GETFD = 438
_ETHERNET_OVERHEAD = 18
_BURST = 64

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Tap:
    """An open TAP. `index` is its interface index."""

    port: PortConfig
    fd: int
    index: int = 0

    def set_carrier(self, up: bool) -> None:
        """Give the TAP carrier, or take it."""
        fcntl.ioctl(self.fd, _TUNSETCARRIER, struct.pack("i", up))

    def write(self, frame: bytes) -> None:
        """Have the stack receive a frame; dropped where the TAP is down, as by any interface."""
        try:
            os.write(self.fd, frame)
        except OSError as error:
            logger.debug("%s drops a frame: %s", self.port.tap, error.strerror)

    def read(self) -> Iterable[bytes]:
        """Yield frames that the stack sends, a burst at most."""
        for _ in range(_BURST):
            try:
                yield os.read(self.fd, self.port.mtu + _ETHERNET_OVERHEAD)
            except OSError:
                return


class HostInterfaces:
    """The TAPs of all ports, by port number."""

    def __init__(self, taps: Mapping[int, Tap]) -> None:
        self._taps = taps

    @classmethod
    def create(cls, ports: Iterable[PortConfig]) -> HostInterfaces:
        """Make the TAPs, without carrier. Raises OSError, naming the TAP that cannot be made."""
        taps = {port.number: Tap(port, _open_tap(port)) for port in ports}
        with IPRoute() as netlink:
            for tap in taps.values():
                _prepare_tap(netlink, tap)
                _silence_stack(netlink, tap.port)
        return cls(taps)

    @classmethod
    def fetch(cls, ports: Iterable[PortConfig], pid: int) -> HostInterfaces | None:
        """Return the TAPs that process `pid` has kept open; None where it has not all of them.

        Raises PermissionError where this process may not look into that one.
        """
        wanted = {port.tap: port for port in ports}
        taps = {}
        for number, name in _kept_open(pid).items():
            if name in wanted:
                tap = Tap(wanted[name], _copy_descriptor(pid, number))
                tap.index = netdev.index(name)
                taps[wanted[name].number] = tap
        if len(taps) != len(wanted):
            for tap in taps.values():
                os.close(tap.fd)
            return None
        return cls(taps)

    @property
    def descriptors(self) -> list[int]:
        """The TAPs' file descriptors, for BIRD to keep open."""
        return [tap.fd for tap in self._taps.values()]

    @property
    def indices(self) -> dict[int, int]:
        """Port number by interface index of the port's TAP."""
        return {tap.index: number for number, tap in self._taps.items()}

    def start(self, send: Callable[[int, bytes], None]) -> None:
        """Call `send` with port and frame for all that the stack sends from now on."""
        loop = asyncio.get_running_loop()

        def forward(tap: Tap) -> None:
            for frame in tap.read():
                send(tap.port.number, frame)

        for tap in self._taps.values():
            loop.add_reader(tap.fd, forward, tap)

    def receive(self, port: int, frame: bytes) -> None:
        """Have the stack receive a frame that came in by a port."""
        tap = self._taps.get(port)
        if tap is not None:
            tap.write(frame)

    def set_carrier(self, port: int, up: bool) -> None:
        """Copy a port's carrier to its TAP."""
        self._taps[port].set_carrier(up)

    def stop(self) -> None:
        """Take no more from the stack, and have it see no carrier."""
        loop = asyncio.get_running_loop()
        for tap in self._taps.values():
            loop.remove_reader(tap.fd)
            tap.set_carrier(False)

    def close(self) -> None:
        """Let go of the TAPs; they vanish unless BIRD keeps them."""
        for tap in self._taps.values():
            os.close(tap.fd)


def _open_tap(port: PortConfig) -> int:
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", port.tap.encode(), _IFF_TAP | _IFF_NO_PI)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, request)
        fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", 0))
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"cannot make the TAP {port.tap}: {error.strerror}") from error
    return fd


def _prepare_tap(netlink: IPRoute, tap: Tap) -> None:
    port = tap.port
    tap.index = netdev.index(port.tap)
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{port.tap}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("1\n")
    netdev.set_ipv4_option(port.tap, "rp_filter", 0)
    netdev.set_ipv4_option(port.tap, "arp_ignore", 1)
    netlink.link("set", index=tap.index, address=port.mac, mtu=port.mtu)
    netlink.addr(
        "add", index=tap.index, address=str(port.address.ip), prefixlen=port.address.network.prefixlen
    )
    netlink.link("set", index=tap.index, state="up")


def _silence_stack(netlink: IPRoute, port: PortConfig) -> None:
    """Keep the stack from taking what comes in by the port itself: its TAP gets the same frames.

    XDP leaves nothing, but BMv2 only looks on. The stack has no route that leads out by a port, so with
    reverse-path filtering no source is valid there.
    """
    netlink.link("set", index=netdev.index(port.interface), arp=False)
    netdev.set_ipv4_option(port.interface, "rp_filter", 1)


def _kept_open(pid: int) -> dict[int, str]:
    """Return the TAPs that a process has open: interface name by descriptor."""
    found = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in entry.read_text().splitlines():
            if line.startswith("iff:"):
                found[int(entry.name)] = line.partition(":")[2].strip()
    return found


def _copy_descriptor(pid: int, number: int) -> int:
    handle = os.pidfd_open(pid)
    try:
        fd = _libc.syscall(_SYS_PIDFD_GETFD, handle, number, 0)
    finally:
        os.close(handle)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot fetch descriptor {number} of process {pid}: {os.strerror(code)}")
    return int(fd)
