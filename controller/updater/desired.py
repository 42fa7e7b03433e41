"""What is wanted of a VIP next: functions from a record to the record that shall take its place.

None of them asks or tells anybody anything, so each can be tested by itself; `reconcile` decides which one
is due. A record that gives up a switch keeps its name under `leaving` until the switch was seen to have
withdrawn: as long as it is there, nobody else announces the VIP.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from typing import TypeVar

from controller.records import Carried, VipRecord
from controller.updater.layout import Down, TipAllocator, change, is_current
from controller.updater.pinning import disturbs, pinned
from duet_p4.model import Dip, Vip

_Carried = TypeVar("_Carried", bound=Carried)

Homes = Mapping[IPv4Address, str | None]
"""Where VIPs and TIPs shall live; None leaves them to the SMuxes."""


def put(record: VipRecord, where: Mapping[IPv4Address, tuple[str | None, str | None]]) -> VipRecord:
    """Return a record with `switch` and `returning` of its VIP and TIPs as `where` says."""
    tips = tuple(_moved(placed, where.get(placed.tip.address)) for placed in record.tips)
    return _moved(record, where.get(record.address)).model_copy(update={"tips": tips})


def _moved(carried: _Carried, where: tuple[str | None, str | None] | None) -> _Carried:
    if where is None or where == (carried.switch, carried.returning):
        return carried
    switch, returning = where
    left = {*carried.leaving, carried.switch} - {None, switch}
    leaving = tuple(sorted(name for name in left if name is not None))
    return carried.model_copy(update={"switch": switch, "returning": returning, "leaving": leaving})


def placed(record: VipRecord, homes: Homes, *, at_once: bool = True) -> VipRecord:
    """Return a record with its VIP and TIPs on their way to new homes, each through the SMuxes.

    What is on the SMuxes with nothing to wait for, and is held by no other switch, goes `at_once`, or
    waits there as all others do. What is at home already, or waits for it, goes on.
    """
    where: dict[IPv4Address, tuple[str | None, str | None]] = {}
    for address, carried in record.carried().items():
        if address not in homes or homes[address] == carried.home:
            continue
        target = homes[address]
        on_smuxes = carried.switch is None and carried.returning is None and not carried.leaving
        if at_once and on_smuxes:
            where[address] = target, None
        else:
            where[address] = None, target
    return put(record, where)


def by_hand(record: VipRecord, switch: str | None) -> VipRecord:
    """Return a record whose VIP an operator put somewhere; TIPs that are in its way give way."""
    return _moved_by_hand(record, switch).model_copy(update={"revision": record.revision + 1})


def _moved_by_hand(record: VipRecord, switch: str | None) -> VipRecord:
    moved = placed(record, {record.address: switch}, at_once=False)
    in_the_way = [tip.tip.address for tip in moved.tips if tip.home is not None and tip.home == moved.home]
    moved = put(moved, dict.fromkeys(in_the_way, (None, None)))
    return moved.model_copy(update={"held": True})


def released(record: VipRecord) -> VipRecord:
    """Return a record that is the engine's to place again; until it does, the VIP stays."""
    return record.model_copy(update={"held": False, "revision": record.revision + 1})


def stated(record: VipRecord, spec: Vip) -> VipRecord:
    """Return a record of which the operator wants something else; its layout follows."""
    return record.model_copy(update={"spec": spec, "revision": record.revision + 1})


def applied(record: VipRecord, spec: Vip, switch: str | None, *, by_hand: bool) -> VipRecord:
    """Return a record of which a file states the spec, and where it is by hand, or that the engine places it.

    The same record where it is all that already.
    """
    after = record if record.spec == spec else stated(record, spec)
    if by_hand and not (after.held and after.home == switch):
        after = _moved_by_hand(after, switch)
    elif not by_hand and after.held:
        after = after.model_copy(update={"held": False})
    return after if after is record else after.model_copy(update={"revision": record.revision + 1})


def drained(spec: Vip, dip: IPv4Address) -> Vip:
    """Return a VIP in every group of which a DIP has weight 0. Raises `ValidationError` for the last one."""

    def without(dips: tuple[Dip, ...]) -> tuple[Dip, ...]:
        return tuple(d.model_copy(update={"weight": 0}) if d.address == dip else d for d in dips)

    ports = [{**port.model_dump(), "dips": without(port.dips)} for port in spec.ports]
    return Vip.model_validate({**spec.model_dump(), "dips": without(spec.dips), "ports": ports})


def relaid(record: VipRecord, down: Down, fan_out: int, allocate_tip: TipAllocator) -> VipRecord | None:
    """Return the record laid out for its spec and who is `down`; None if it is already.

    No flow is pinned in it. Raises `LayoutError`.
    """
    if is_current(record, down):
        return None
    new = change(record, record.spec, down, fan_out, allocate_tip, lean=record.switch is None)
    return None if pinned(new, record.layout.pinned) == record else new


def needs_detour(record: VipRecord, new: VipRecord, down: Down) -> bool:
    """Whether a new layout would move live flows, so that the VIP has to be on the SMuxes first."""
    return disturbs(record, new, down.failed) and (record.switch is not None or bool(record.leaving))


def detoured(record: VipRecord) -> VipRecord:
    """Return a record whose VIP waits on the SMuxes, whose connection tables hold its flows, to return."""
    return put(record, {record.address: (None, record.home)})


def come_home(record: VipRecord, addresses: Collection[IPv4Address]) -> VipRecord:
    """Return a record in which some of what waits is on its switch again."""
    carried = record.carried()
    return put(record, {address: (carried[address].returning, None) for address in addresses})


def left_to_smuxes(record: VipRecord, switches: Mapping[IPv4Address, str]) -> VipRecord:
    """Return a record in which what its switch has no room for waits for it on the SMuxes.

    The switch was asked and refused, so it does not hold it.
    """
    carried = record.carried()
    waiting = {a: (None, s) for a, s in switches.items() if a in carried and carried[a].switch == s}
    return withdrawn(put(record, waiting), {address: {switch} for address, switch in switches.items()})


def waiting_for(record: VipRecord, switches: Collection[str]) -> VipRecord:
    """Return a record in which what shall be on some switches waits for them on the SMuxes.

    Only what they do not hold yet: nobody can take from them what they hold.
    """
    carried = record.carried()
    return put(record, {a: (None, c.switch) for a, c in carried.items() if c.switch in switches})


def withdrawn(record: VipRecord, gone: Mapping[IPv4Address, Collection[str]]) -> VipRecord:
    """Return a record in which switches that were seen not to hold something are not `leaving` it."""
    if all(not set(c.leaving) & set(gone.get(a, ())) for a, c in record.carried().items()):
        return record
    tips = tuple(_without(placed, gone.get(placed.tip.address, ())) for placed in record.tips)
    return _without(record, gone.get(record.address, ())).model_copy(update={"tips": tips})


def _without(carried: _Carried, gone: Collection[str]) -> _Carried:
    leaving = tuple(name for name in carried.leaving if name not in gone)
    return carried if leaving == carried.leaving else carried.model_copy(update={"leaving": leaving})


def stranded(record: VipRecord, lost: Collection[str]) -> set[IPv4Address]:
    """Return which of a VIP and its TIPs belong to switches that are lost, and must go elsewhere.

    A VIP that an operator put there waits for its switch; see `awaiting_lost`.
    """
    return {
        address
        for address, carried in record.carried().items()
        if carried.home in lost and not (record.held and address == record.address)
    }


def awaiting_lost(record: VipRecord, lost: Collection[str]) -> VipRecord:
    """Return a record in which a VIP that was put on a lost switch by hand waits for it."""
    if not record.held or record.switch not in lost:
        return record
    return put(record, {record.address: (None, record.switch)})


def rehomed(record: VipRecord, addresses: Collection[IPv4Address], homes: Homes) -> VipRecord:
    """Return a record in which `addresses` have the homes that the engine says, and nothing is in their way.

    No TIP is ever on its VIP's own switch: one that is in the way goes where the engine has it, else to the
    SMuxes. A VIP that is held stays.
    """
    wanted = {a: homes.get(a) for a in addresses if not (record.held and a == record.address)}
    after = placed(record, wanted)
    blocked = {
        tip.tip.address: homes.get(tip.tip.address)
        for tip in after.tips
        if tip.home is not None and tip.home == after.home
    }
    return placed(after, {a: None if home == after.home else home for a, home in blocked.items()})
