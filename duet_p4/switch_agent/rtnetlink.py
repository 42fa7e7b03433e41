"""Layouts of rtnetlink's messages (linux/netlink.h, linux/rtnetlink.h), for who reads and who changes."""

from __future__ import annotations

import struct

HEADER = struct.Struct("=IHHII")
ROUTE = struct.Struct("=8BI")
NEIGHBOR = struct.Struct("=B3xiHBB")
ATTRIBUTE = struct.Struct("=HH")
U32 = struct.Struct("=I")
ERROR = struct.Struct("=i")

NLMSG_ERROR = 2
SOL_NETLINK = 270
