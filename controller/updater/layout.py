"""From an operator's VIP to the slot tables of its muxes, and from one layout to the next.

A VIP with more DIPs than a tunneling table holds is split over TIPs: its own slots name TIPs, and
each TIP's slots name up to that many DIPs (the paper's large fan-out).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from controller.records import PlacedTip, VipRecord
from duet_p4 import slots
from duet_p4.model import MAX_WEIGHT, VIP_CHECK, Checked, Dip, Group, MuxPortGroup, MuxTip, MuxVip, Vip

TipAllocator = Callable[[], IPv4Address]

_OVERSIZE = 4
"""How many times the slots of a fresh group an old one may keep: its VIP is smaller than it was."""


@dataclass(frozen=True)
class Down:
    """Which DIPs of a VIP are down: those that a check failed, and those that nothing can be sent to."""

    failed: frozenset[Checked] = frozenset()
    gone: frozenset[IPv4Address] = frozenset()

    def cuts(self, spec: Vip, dip: IPv4Address, check: str) -> bool:
        """Whether a DIP leaves a group that a check decides about, with all of its connections."""
        what = spec.checks().get(check)
        return dip in self.gone or (what is not None and what.cut and Checked(dip, check) in self.failed)


NONE_DOWN = Down()


class LayoutError(ValueError):
    """A VIP that no layout can serve; the text says why."""


def tip_allocator(prefix: IPv4Network, used: Callable[[], Collection[IPv4Address]]) -> TipAllocator:
    """Return a function that yields TIPs of `prefix` that are not in `used()`, lowest first.

    Few VIPs need a TIP, so `used` is called only once one does.
    """

    def unused() -> Iterator[IPv4Address]:
        taken = used()
        yield from (address for address in prefix.hosts() if address not in taken)

    free = unused()

    def allocate() -> IPv4Address:
        address = next(free, None)
        if address is None:
            raise LayoutError(f"the TIP prefix {prefix} has no free address left")
        return address

    return allocate


def lay_out(spec: Vip, fan_out: int, allocate_tip: TipAllocator, down: Down = NONE_DOWN) -> VipRecord:
    """Spell a VIP out afresh, with those DIPs that are `down` left out, or drained.

    `fan_out` is how many DIPs one tunneling table holds (the paper: 512). Whether a VIP needs TIPs is
    up to the DIPs that are stated, not to those that are up: a failure must not lay it out afresh.
    """
    for port in spec.ports:
        if len(port.dips) > fan_out:
            raise LayoutError(
                f"VIP {spec.address} port {port.protocol}/{port.port} has {len(port.dips)} DIPs; "
                f"a port takes at most {fan_out}"
            )
    if len(spec.dips) > fan_out * fan_out:
        raise LayoutError(
            f"VIP {spec.address} has {len(spec.dips)} DIPs; TIPs reach at most {fan_out * fan_out}"
        )
    alive = _without(spec, down)
    ports = MuxVip.of(alive).ports if alive.ports else ()
    if len(spec.dips) <= fan_out:
        group = Group.of(alive.dips) if alive.dips else None
        return VipRecord(spec=spec, layout=MuxVip(address=spec.address, group=group, ports=ports))
    tips = tuple(
        PlacedTip(tip=MuxTip(address=allocate_tip(), group=_share_group(None, share)))
        for share in _shares(alive.dips, -(-len(alive.dips) // fan_out))
    )
    layout = MuxVip(address=spec.address, group=Group.of(_tip_members(tips)), ports=ports)
    return VipRecord(spec=spec, layout=layout, tips=tips)


def change(
    record: VipRecord,
    spec: Vip,
    down: Down,
    fan_out: int,
    allocate_tip: TipAllocator,
    *,
    lean: bool = False,
) -> VipRecord:
    """Return the record for a new `spec` without, or draining, who is `down`, moving as few slots as can be.

    A group may keep more slots than it would get afresh, so that a smaller VIP's flows stay; not so if it
    shall be `lean`, as for a VIP that waits for room.

    A group whose every DIP is down keeps them all: sending traffic to a DIP that may recover is no
    worse than sending it nowhere.
    """
    alive = _without(spec, down)
    if bool(record.tips) != (len(spec.dips) > fan_out):
        fresh = lay_out(spec, fan_out, allocate_tip, down)
        return record.model_copy(update={"spec": spec, "layout": fresh.layout, "tips": fresh.tips})
    tips = _changed_tips(record.tips, alive.dips, fan_out, allocate_tip) if record.tips else ()
    members = _changed_tip_members(record, tips) if tips else alive.dips
    old_ports = {(port.protocol, port.port): port.group for port in record.layout.ports}
    ports = []
    for port, stated in zip(alive.ports, spec.ports, strict=True):
        group = _regroup(old_ports.get((port.protocol, port.port)), port.dips, stated.dips, lean)
        ports.append(MuxPortGroup(protocol=port.protocol, port=port.port, group=group))
    default = (
        _regroup(record.layout.group, members, members if tips else spec.dips, lean) if members else None
    )
    layout = MuxVip(address=spec.address, group=default, ports=tuple(ports))
    return record.model_copy(update={"spec": spec, "layout": layout, "tips": tips})


def is_current(record: VipRecord, down: Down) -> bool:
    """Whether a layout has exactly the DIPs of its VIP, with those that are `down` left out or drained."""
    alive = _without(record.spec, down)
    groups = [placed.tip.group for placed in record.tips]
    if not groups and record.layout.group is not None:
        groups = [record.layout.group]
    held = {member for group in groups for member in group.members}
    ports = {(port.protocol, port.port): set(port.group.members) for port in record.layout.ports}
    wanted = {(port.protocol, port.port): set(port.dips) for port in alive.ports}
    return held == set(alive.dips) and ports == wanted


def _regroup(old: Group | None, dips: tuple[Dip, ...], stated: tuple[Dip, ...], lean: bool) -> Group:
    """Return the group with `dips`, afresh if it keeps far more slots than what is `stated` would get."""
    most = (1 if lean else _OVERSIZE) * slots.default_count([dip.weight for dip in stated])
    return old.updated(dips) if old and len(old.slots) <= most else Group.of(dips)


def _without(spec: Vip, down: Down) -> Vip:
    """Return a VIP without the DIPs that left, and those that only failed a check without new flows."""

    def drained(dip: Dip, check: str) -> Dip:
        return dip.model_copy(update={"weight": 0}) if Checked(dip.address, check) in down.failed else dip

    def alive(dips: tuple[Dip, ...], check: str) -> tuple[Dip, ...]:
        staying = tuple(dip for dip in dips if not down.cuts(spec, dip.address, check))
        kept = tuple(drained(dip, check) for dip in staying)
        found = (kept, staying, dips)
        return next(some for some in found if some is dips or any(dip.weight for dip in some))

    if down == NONE_DOWN:
        return spec

    ports = tuple(port.model_copy(update={"dips": alive(port.dips, port.check)}) for port in spec.ports)
    return spec.model_copy(update={"dips": alive(spec.dips, VIP_CHECK), "ports": ports})


def _shares(dips: Sequence[Dip], count: int) -> list[tuple[Dip, ...]]:
    """Split DIPs into `count` shares whose sizes differ by one at most."""
    size, more = divmod(len(dips), count)
    starts = [share * size + min(share, more) for share in range(count + 1)]
    return [tuple(dips[start:end]) for start, end in pairwise(starts)]


def _tip_members(tips: Sequence[PlacedTip]) -> tuple[Dip, ...]:
    """Return the TIPs as members of their VIP's group, weighted by what their DIPs weigh together."""
    sums = [sum(dip.weight for dip in placed.tip.group.members) for placed in tips]
    scale = max(1.0, max(sums) / MAX_WEIGHT)
    return tuple(
        Dip(address=placed.tip.address, weight=max(1, round(total / scale)) if total else 0)
        for placed, total in zip(tips, sums, strict=True)
    )


def _changed_tip_members(record: VipRecord, tips: Sequence[PlacedTip]) -> tuple[Dip, ...]:
    """Return the TIPs as members; where DIPs only left, weights stay, so that no other flow moves."""
    old = {placed.tip.address: set(placed.tip.group.members) for placed in record.tips}
    shrunk = all(set(placed.tip.group.members) <= old.get(placed.tip.address, set()) for placed in tips)
    if not shrunk or record.layout.group is None:
        return _tip_members(tips)
    taking = {placed.tip.address: any(dip.weight for dip in placed.tip.group.members) for placed in tips}
    return tuple(
        member if taking[member.address] else member.model_copy(update={"weight": 0})
        for member in record.layout.group.members
        if member.address in taking
    )


def _changed_tips(
    tips: Sequence[PlacedTip], dips: Sequence[Dip], fan_out: int, allocate_tip: TipAllocator
) -> tuple[PlacedTip, ...]:
    wanted = {dip.address: dip for dip in dips}
    shares = [
        [wanted.pop(dip.address) for dip in placed.tip.group.members if dip.address in wanted]
        for placed in tips
    ]
    for dip in wanted.values():
        smallest = min(shares, key=len)
        if len(smallest) >= fan_out:
            shares.append([dip])
        else:
            smallest.append(dip)
    changed = []
    for index, share in enumerate(shares):
        if not share:
            continue
        if index < len(tips):
            old = tips[index]
            tip = MuxTip(address=old.tip.address, group=_share_group(old.tip.group, tuple(share)))
            changed.append(old.model_copy(update={"tip": tip}))
        else:
            tip = MuxTip(address=allocate_tip(), group=_share_group(None, tuple(share)))
            changed.append(PlacedTip(tip=tip))
    return tuple(changed)


def _share_group(old: Group | None, share: tuple[Dip, ...]) -> Group:
    """Return a TIP's group. One whose every DIP is drained keeps its slots; its VIP gives it none."""
    if any(dip.weight for dip in share):
        return old.updated(share) if old else Group.of(share)
    equal = tuple(dip.model_copy(update={"weight": 1}) for dip in share)
    return Group(members=share, slots=(old.updated(equal) if old else Group.of(equal)).slots)
