"""The CPU port: a TAP device of this process.

A packet-out is written to it and enters the program like any packet, a packet-in is redirected into it and
read from it. It is not persistent: it ends with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

_TUNSETIFF, _IFF_TAP_NO_PI = 0x400454CA, 0x1002
_SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFTXQLEN, _IFF_UP = 0x8914, 0x8922, 0x8943, 1
_MTU = 3000
_QUEUE = 4096
_MAX_FRAME = 65536
_IPV6 = Path("/proc/sys/net/ipv6/conf")


class CpuPort:
    """A TAP device, up and empty; `fd` becomes readable when a frame was sent to it."""

    def __init__(self) -> None:
        """Make the device in this network namespace; raises OSError without the right to."""
        self.fd, self.interface = _open()

    def send(self, frame: bytes) -> None:
        """Let a frame come in; raises OSError where it is too short or too long."""
        os.write(self.fd, frame)

    def receive(self) -> bytes | None:
        """Return the next frame, None where there is none now.

        Raises OSError where the device was deleted; there is another one then, with a new `fd`.
        """
        try:
            return os.read(self.fd, _MAX_FRAME)
        except BlockingIOError:
            return None
        except OSError:
            self.close()
            self.fd, self.interface = _open()
            raise

    def close(self) -> None:
        """Delete the device; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open() -> tuple[int, str]:
    """Return file descriptor and name of a new device."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"p4cpu%d", _IFF_TAP_NO_PI))
        name = request[:16].rstrip(b"\0")
        _silence(name.decode())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name, _MTU))
            fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name, _QUEUE))
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
    except BaseException:
        os.close(fd)
        raise
    return fd, name.decode()


def _silence(interface: str) -> None:
    """Keep the kernel from sending anything itself, so that all that is read is packet-in."""
    try:
        (_IPV6 / interface / "disable_ipv6").write_text("1")
    except OSError as error:
        # A kernel without IPv6 has no such file, and nothing to silence.
        if error.errno != errno.ENOENT:
            raise
