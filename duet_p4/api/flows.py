"""Records of flows, as agents and the controller tell them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Literal, Protocol

from duet_p4.model import Model

MAX_SAMPLING = 65_536

DeviceKind = Literal["switch", "smux", "server"]


class FlowRecord(Model):
    """What passed a device of one flow of a VIP: from a client to `destination`, the VIP.

    `packets` and `bytes` are estimates: one packet in `sampling` was looked at. What the DIP answers passes
    no mux, so `reply_packets` and `reply_bytes` are known of servers only. `dip` is where the tunnel leads,
    at a server who has the flow. `first` and `last` are Unix seconds. An ICMP echo's identifier is its port.
    """

    device: str
    kind: DeviceKind
    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    protocol: int
    dip: IPv4Address
    packets: int
    bytes: int
    reply_packets: int = 0
    reply_bytes: int = 0
    sampling: int
    first: float
    last: float


class FlowRecordService(Protocol):
    """What a device that samples offers."""

    def records(self) -> Sequence[FlowRecord]:
        """Return the flows that had packets lately, the latest first; none where it does not sample."""
