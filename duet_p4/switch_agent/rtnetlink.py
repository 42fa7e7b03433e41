"""Layouts and numbers of rtnetlink's messages, for who reads and who changes.

linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("=IHHII")
ROUTE = struct.Struct("=8BI")
NEIGHBOR = struct.Struct("=B3xiHBB")
ATTRIBUTE = struct.Struct("=HH")
U32 = struct.Struct("=I")
ERROR = struct.Struct("=i")

NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK = 10, 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_DELNEXTHOP = 104, 105

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_NH_ID = 1, 4, 5, 6, 9, 15, 30
RTN_UNICAST, RTN_BLACKHOLE = 1, 6
RTNH_F_ONLINK = 4

NDA_DST, NDA_LLADDR, NDA_FLAGS_EXT = 1, 2, 15
NTF_EXT_LEARNED, NTF_EXT_MANAGED = 0x10, 1
