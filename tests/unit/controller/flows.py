"""Live flows as host agents would report them, and where a VIP's layout sends a flow."""

from __future__ import annotations

from ipaddress import IPv4Address

from controller.records import VipRecord
from controller.updater.pinning import group_of
from duet_p4.api.host import LiveFlow
from duet_p4.flow_hash import Flow, flow_hash, tip_hash

CLIENT = IPv4Address("100.9.0.1")


def dip_of(record: VipRecord, flow: Flow) -> IPv4Address:
    """Follow a flow through the VIP's pins and slots, and its TIP's where it has one."""
    for pin in record.layout.pinned:
        if (pin.source, pin.source_port, pin.destination_port) == (
            flow.source,
            flow.source_port,
            flow.destination_port,
        ):
            return pin.dip
    group = group_of(record.layout, flow.protocol, flow.destination_port)
    assert group is not None
    member = group.member(flow_hash(flow)).address
    behind = {placed.tip.address: placed.tip.group for placed in record.tips}.get(member)
    return behind.member(tip_hash(flow)).address if behind else member


def key_of(record: VipRecord, flow: LiveFlow) -> Flow:
    return Flow(flow.source, record.address, flow.protocol, flow.source_port, flow.destination_port)


def live_flows(record: VipRecord, count: int) -> list[LiveFlow]:
    """Return `count` flows to port 80, each with the DIP that it has now."""
    keys = [Flow(CLIENT, record.address, 6, 1024 + number, 80) for number in range(count)]
    return [
        LiveFlow(
            protocol=key.protocol,
            source=key.source,
            source_port=key.source_port,
            destination_port=key.destination_port,
            dip=dip_of(record, key),
        )
        for key in keys
    ]
