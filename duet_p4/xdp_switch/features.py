"""What the kernel says of an interface's XDP: whether frames can be redirected into it.

A veth takes redirected frames only while its far end has an XDP program or GRO on. (Kernel documentation,
netlink/specs/netdev.yaml; Linux 6.3 and later.)
"""

from __future__ import annotations

import errno
import socket
import struct

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_NETDEV_CMD_DEV_GET, _NETDEV_A_DEV_IFINDEX, _NETDEV_A_DEV_XDP_FEATURES = 1, 1, 3
_NLM_F_REQUEST, _NLMSG_ERROR = 1, 2
_NDO_XMIT = 1 << 2


def takes_redirects(ifindex: int) -> bool | None:
    """Whether native XDP can send frames to an interface; None where the kernel does not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as netlink:
            netlink.bind((0, 0))
            name = _attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            family = _ask(netlink, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)[_CTRL_ATTR_FAMILY_ID]
            index = _attribute(_NETDEV_A_DEV_IFINDEX, struct.pack("=I", ifindex))
            found = _ask(netlink, struct.unpack("=H", family)[0], _NETDEV_CMD_DEV_GET, index)
    except (OSError, KeyError):
        return None
    features = found.get(_NETDEV_A_DEV_XDP_FEATURES, b"")
    return bool(int.from_bytes(features, "little") & _NDO_XMIT)


def _ask(netlink: socket.socket, family: int, command: int, payload: bytes) -> dict[int, bytes]:
    """Send a request and return the attributes of the answer by number; raises OSError."""
    body = struct.pack("=BBxx", command, 1) + payload
    netlink.send(struct.pack("=IHHII", 16 + len(body), family, _NLM_F_REQUEST, 1, 0) + body)
    answer = netlink.recv(16384)
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(code, errno.errorcode.get(code, "netlink"))
    attributes = {}
    at = 20
    while at < length:
        size, number = struct.unpack_from("=HH", answer, at)
        attributes[number & 0x3FFF] = answer[at + 4 : at + size]
        at += (size + 3) & ~3
    return attributes


def _attribute(number: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, number) + value + bytes(-size % 4)
