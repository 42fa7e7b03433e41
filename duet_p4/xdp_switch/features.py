"""What the kernel says of an interface's XDP: whether frames can be redirected into it.

A veth takes redirected frames only while its far end has an XDP program or GRO on. (Kernel documentation,
netlink/specs/netdev.yaml; Linux 6.3 and later.)
"""

from __future__ import annotations

import errno
import socket
import struct

from duet_p4.netlink_messages import NLMSG_ERROR, U32, attribute, attributes, errno_of, messages, request

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_NETDEV_CMD_DEV_GET, _NETDEV_A_DEV_IFINDEX, _NETDEV_A_DEV_XDP_FEATURES = 1, 1, 3
_GENERIC = struct.Struct("=BBxx")
_NDO_XMIT = 1 << 2


def takes_redirects(ifindex: int) -> bool | None:
    """Whether native XDP can send frames to an interface; None where the kernel does not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as netlink:
            netlink.bind((0, 0))
            name = attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            family = _ask(netlink, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)[_CTRL_ATTR_FAMILY_ID]
            index = attribute(_NETDEV_A_DEV_IFINDEX, U32.pack(ifindex))
            found = _ask(netlink, struct.unpack("=H", family)[0], _NETDEV_CMD_DEV_GET, index)
    except (OSError, KeyError):
        return None
    features = found.get(_NETDEV_A_DEV_XDP_FEATURES, b"")
    return bool(int.from_bytes(features, "little") & _NDO_XMIT)


def _ask(netlink: socket.socket, family: int, command: int, payload: bytes) -> dict[int, bytes]:
    """Send a request and return the attributes of the answer by number; raises OSError."""
    netlink.send(request(family, 0, 1, _GENERIC.pack(command, 1) + payload))
    answer = netlink.recv(16384)
    kind, _, rest = next(messages(answer))
    if kind == NLMSG_ERROR:
        raise OSError(errno_of(rest), errno.errorcode.get(errno_of(rest), "netlink"))
    return {number: bytes(value) for number, value in attributes(rest[_GENERIC.size :])}
