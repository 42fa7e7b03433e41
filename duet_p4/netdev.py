"""Facts about network interfaces, and settings of theirs, in the caller's network namespace."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from pyroute2 import IPRoute

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_ETHTOOL_SGRO = 0x2C
_ETHTOOL_TRANSMIT = {"tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24}
NTF_EXT_LEARNED = 0x10
_IFF_UP = 0x1
_IFF_UP_AND_RUNNING = _IFF_UP | 0x40


def index(name: str) -> int:
    """Return an interface's index. Raises OSError naming an interface that is not there."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(error.errno, f"there is no interface {name}") from error


def mtu(name: str) -> int:
    """Return the largest IP packet that an interface sends, in bytes."""
    (value,) = struct.unpack_from("i", _ioctl(name, _SIOCGIFMTU), 16)
    return int(value)


def mac(name: str) -> bytes:
    """Return an interface's MAC address."""
    return _ioctl(name, _SIOCGIFHWADDR)[18:24]


def is_up(name: str) -> bool:
    """Return whether an interface is up and has carrier."""
    return _flags(name) & _IFF_UP_AND_RUNNING == _IFF_UP_AND_RUNNING


def traffic() -> dict[str, tuple[int, int]]:
    """Return how many bytes each interface has received and sent since it was made."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, counts = line.partition(":")
        fields = counts.split()
        found[name.strip()] = (int(fields[0]), int(fields[8]))
    return found


def is_enabled(name: str) -> bool:
    """Return whether an interface was taken up, with carrier or without."""
    return bool(_flags(name) & _IFF_UP)


def set_up(name: str, *, up: bool) -> None:
    """Take an interface up or down."""
    flags = _flags(name)
    _ioctl(name, _SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP if up else flags & ~_IFF_UP))


def set_gro(name: str, *, on: bool) -> None:
    """Turn generic receive offload on or off."""
    _ethtool(name, _ETHTOOL_SGRO, on)


def set_transmit_offloads(name: str, *, on: bool) -> None:
    """Leave checksums and segmentation to the device, or have the stack do both.

    A packet leaves a veth as it is: where a program looks at it next, the stack must have finished it.
    """
    for command in _ETHTOOL_TRANSMIT.values():
        _ethtool(name, command, on)


def set_ipv4_option(name: str, option: str, value: int) -> None:
    """Set `net.ipv4.conf.<name>.<option>`."""
    Path(f"/proc/sys/net/ipv4/conf/{name}/{option}").write_text(f"{value}\n", encoding="ascii")


def first_ephemeral_port() -> int:
    """Return the lowest port that connect() takes by itself."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])


def know_neighbor(netlink: IPRoute, interface: str, address: IPv4Address) -> None:
    """Have an entry for a neighbour of an interface that is up, to be resolved when it is first sent to.

    It does not count against the table's size, which all network namespaces of a machine share: where that
    is reached, the kernel resolves no other neighbour, and does not even answer those that ask for it.
    """
    netlink.neigh(
        "replace",
        dst=str(address),
        ifindex=index(interface),
        state=0,
        flags=NTF_EXT_LEARNED,
        family=socket.AF_INET,
    )


def set_own_address(address: IPv4Address) -> None:
    """Give the node an address that is none of its links', on lo. Not for use within an event loop."""
    with IPRoute() as netlink:
        netlink.addr("replace", index=index("lo"), address=str(address), prefixlen=32)


def _flags(name: str) -> int:
    return int(struct.unpack_from("H", _ioctl(name, _SIOCGIFFLAGS), 16)[0])


def _ethtool(name: str, command: int, value: int) -> None:
    request = array.array("B", struct.pack("II", command, value))
    pointer, _ = request.buffer_info()
    _ioctl(name, _SIOCETHTOOL, struct.pack("P", pointer))


def _ioctl(name: str, request: int, argument: bytes = b"") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        filled = struct.pack("16s", name.encode()) + argument.ljust(24, b"\0")
        try:
            return fcntl.ioctl(control, request, filled)
        except OSError as error:
            raise OSError(error.errno, f"interface {name}: {error.strerror}") from error
