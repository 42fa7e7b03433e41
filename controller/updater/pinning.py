"""Which live flows must be pinned so that a change of slots leaves them on their DIP."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from controller.records import VipRecord
from duet_p4.api.host import LiveFlow
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import Checked, Dip, Group, MuxVip, PinnedFlow, Protocol

_PIN = set(PinnedFlow.model_fields)


def group_of(vip: MuxVip, protocol: int, port: int) -> Group | None:
    """Return the group that serves a protocol and destination port of a VIP, as its muxes pick it."""
    for entry in vip.ports:
        if Protocol(entry.protocol).number == protocol and entry.port == port:
            return entry.group
    return vip.group


def pinned(record: VipRecord, flows: Iterable[LiveFlow | PinnedFlow]) -> VipRecord:
    """Return the record with those of `flows` pinned that its slots would send elsewhere than where they are.

    A flow whose DIP does not serve it any more cannot be kept and is left out. Of several DIPs that tell of
    one flow, it is that one's who heard of the client last: see `LiveFlow`. A DIP that is behind a TIP joins
    its VIP's group, without a slot, once a flow is pinned to it: so muxes know the way to it.
    """
    tips = {placed.tip.address: placed.tip.group for placed in record.tips}
    served = {id(group): _serving(group, tips) for group in record.layout.groups()}
    pins: set[PinnedFlow] = set()
    through_tips: set[Dip] = set()
    for flow in _heard_last(flows):
        group = group_of(record.layout, flow.protocol, flow.destination_port)
        if group is None:
            continue
        key = Flow(flow.source, record.address, flow.protocol, flow.source_port, flow.destination_port)
        member = group.member(flow_hash(key))
        behind = tips.get(member.address)
        if (behind.member(tip_hash(key)) if behind else member).address == flow.dip:
            continue
        serving = served[id(group)].get(flow.dip)
        if serving is not None:
            pins.add(PinnedFlow(**flow.model_dump(include=_PIN)))
            if tips and group is record.layout.group:
                through_tips.add(serving)
    layout = record.layout.model_copy(update={"pinned": tuple(sorted(pins, key=_order))})
    if tips and layout.group is not None:
        own = tuple(member for member in layout.group.members if member.address in tips)
        known = tuple(
            dip.model_copy(update={"weight": 0}) for dip in sorted(through_tips, key=lambda d: d.address)
        )
        layout = layout.model_copy(update={"group": layout.group.model_copy(update={"members": own + known})})
    return record.model_copy(update={"layout": layout})


def disturbs(old: VipRecord, new: VipRecord, failed: Collection[Checked] = ()) -> bool:
    """Whether a change of layout moves slots away from a DIP that stays a member of its group, and is well.

    Only then are there live flows worth waiting for: flows of a DIP that left have nowhere to stay, and one
    that has `failed` a check must get no new ones.
    """
    unwell = {checked.dip for checked in failed}
    if bool(old.tips) != bool(new.tips):
        return True
    old_groups = {(port.protocol, port.port): port.group for port in old.layout.ports}
    pairs: list[tuple[Group | None, Group | None]] = [
        (old_groups.get((port.protocol, port.port), old.layout.group), port.group)
        for port in new.layout.ports
    ]
    pairs.append((old.layout.group, new.layout.group))
    old_tips = {placed.tip.address: placed.tip.group for placed in old.tips}
    pairs += [(old_tips.get(placed.tip.address), placed.tip.group) for placed in new.tips]
    return any(before and after and _moves_a_member(before, after, unwell) for before, after in pairs)


def _heard_last(flows: Iterable[LiveFlow | PinnedFlow]) -> Collection[LiveFlow | PinnedFlow]:
    """Return each flow once. Of a flow that is pinned only, nobody says that it was heard of."""

    def idle_s(flow: LiveFlow | PinnedFlow) -> float:
        return flow.idle_s if isinstance(flow, LiveFlow) else math.inf

    found: dict[tuple[object, ...], LiveFlow | PinnedFlow] = {}
    for flow in flows:
        key = (flow.protocol, flow.source, flow.source_port, flow.destination_port)
        if key not in found or idle_s(flow) < idle_s(found[key]):
            found[key] = flow
    return found.values()


def _serving(group: Group, tips: Mapping[IPv4Address, Group]) -> dict[IPv4Address, Dip]:
    """Return the DIPs of a group; where it has TIPs, those behind them."""
    behind = [tips[member.address].members for member in group.members if member.address in tips]
    return {dip.address: dip for dips in behind or [group.members] for dip in dips}


def _moves_a_member(before: Group, after: Group, unwell: Collection[IPv4Address]) -> bool:
    staying = {member.address for member in after.members if member.weight or member.address not in unwell}
    owners_before = [before.members[slot].address for slot in before.slots]
    owners_after = [after.members[slot].address for slot in after.slots]
    if len(owners_before) != len(owners_after):
        return any(address in staying for address in owners_before)
    return any(was != now and was in staying for was, now in zip(owners_before, owners_after, strict=True))


def _order(pin: PinnedFlow) -> tuple[object, ...]:
    return tuple(pin.model_dump().values())
