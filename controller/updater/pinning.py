"""Which live flows must be pinned so that a change of slots leaves them on their DIP."""

from __future__ import annotations

from collections.abc import Iterable

from duet_p4.flow_hash import Flow, flow_hash
from duet_p4.host_agent.model import LiveFlow
from duet_p4.model import Group, MuxVip, PinnedFlow, Protocol


def group_of(vip: MuxVip, protocol: int, port: int) -> Group | None:
    """Return the group that serves a protocol and destination port of a VIP, as its muxes pick it."""
    for entry in vip.ports:
        if Protocol(entry.protocol).number == protocol and entry.port == port:
            return entry.group
    return vip.group


def pins(layout: MuxVip, flows: Iterable[LiveFlow]) -> tuple[PinnedFlow, ...]:
    """Return the flows that `layout`'s slots would send elsewhere than where they are.

    A flow whose DIP is no member of its group any more cannot be kept and is left out.
    """
    pinned = []
    for flow in flows:
        group = group_of(layout, flow.protocol, flow.destination_port)
        if group is None or all(member.address != flow.dip for member in group.members):
            continue
        key = Flow(flow.source, layout.address, flow.protocol, flow.source_port, flow.destination_port)
        if group.member(flow_hash(key)).address != flow.dip:
            pinned.append(PinnedFlow(**flow.model_dump()))
    return tuple(sorted(set(pinned), key=lambda pin: tuple(pin.model_dump().values())))


def disturbs(old: MuxVip, new: MuxVip) -> bool:
    """Whether a change of layout moves slots away from a DIP that stays a member of its group.

    Only then are there live flows worth pinning: flows of a DIP that left have nowhere to stay.
    """
    old_groups = {(port.protocol, port.port): port.group for port in old.ports}
    pairs: list[tuple[Group | None, Group | None]] = [
        (old_groups.get((port.protocol, port.port), old.group), port.group) for port in new.ports
    ]
    pairs.append((old.group, new.group))
    return any(before and after and _moves_a_member(before, after) for before, after in pairs)


def _moves_a_member(before: Group, after: Group) -> bool:
    staying = {member.address for member in after.members}
    owners_before = [before.members[slot].address for slot in before.slots]
    owners_after = [after.members[slot].address for slot in after.slots]
    if len(owners_before) != len(owners_after):
        return any(address in staying for address in owners_before)
    return any(was != now and was in staying for was, now in zip(owners_before, owners_after, strict=True))
