"""What the updater tells of itself: how much is left to do, and why a VIP is where it is."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from controller.reach import Reach
from controller.records import Carried, VipRecord
from controller.updater.service import Updater
from duet_p4.model import Model


class DeviceStatus(Model):
    """A device as the updater sees it: what waits for it, when it last answered (Unix time).

    `confirmed` says that it was found to hold what it should. One with a `problem` is left alone for
    `retry_in_s` seconds.
    """

    name: str
    kind: str
    reach: Reach
    confirmed: bool
    held: int
    queued: int
    oldest_s: float
    seen: float | None
    problem: str = ""
    retry_in_s: float = 0.0


class UpdaterStatus(Model):
    """The updater at a glance: VIPs and TIPs by where they are, what is left to do, devices in trouble.

    `waiting` has what waits for a switch on the SMuxes, `cut_off` servers that nothing can be sent to;
    `suspect` says why monitoring suspects itself.
    """

    vips: int
    on_hmuxes: int
    on_smuxes: int
    queue_depth: int
    queue_oldest_s: float
    waiting: dict[IPv4Address, str]
    dips_down: tuple[IPv4Address, ...]
    cut_off: tuple[str, ...]
    resting: int
    failing: int
    devices: dict[Reach, int]
    trouble: tuple[DeviceStatus, ...]
    suspect: str = ""


class Why(Model):
    """Why a VIP is where it is: in words, the newest last; and what it waits for, what was tried last.

    `problems` came of the last try; it is tried again in `retry_in_s`, or (null) when something changes.
    """

    vip: IPv4Address
    revision: int
    switch: str | None
    returning: str | None
    leaving: tuple[str, ...]
    held: bool
    reasons: tuple[str, ...]
    waits_for: tuple[str, ...]
    problems: tuple[str, ...]
    retry_in_s: float | None


def device_status(updater: Updater, name: str) -> DeviceStatus:
    """Return a device as the updater sees it."""
    lane = updater.reconciler.lanes[name]
    return DeviceStatus(
        name=name,
        kind=lane.kind.value,
        reach=updater.reconciler.reach[name],
        confirmed=lane.known and lane.confirmed,
        held=len(lane.held.entries),
        queued=lane.depth,
        oldest_s=round(lane.oldest_s(), 3),
        seen=lane.seen,
        problem=lane.problem,
        retry_in_s=round(lane.retry_in, 3),
    )


def updater_status(updater: Updater) -> UpdaterStatus:
    """Return the updater at a glance."""
    state, reconciler = updater.state, updater.reconciler
    on_hmuxes = sum(len(state.on(name)) for name in reconciler.lanes)
    every = state.count()
    trouble = [
        device_status(updater, name)
        for name, lane in reconciler.lanes.items()
        if lane.problem or not reconciler.reach[name].answers
    ]
    return UpdaterStatus(
        vips=len(state),
        on_hmuxes=on_hmuxes,
        on_smuxes=every - on_hmuxes,
        queue_depth=reconciler.queue.depth,
        queue_oldest_s=round(reconciler.queue.oldest_s(), 3),
        waiting=state.waiting(),
        dips_down=tuple(sorted(state.down_dips())),
        cut_off=tuple(sorted(state.cut_off)),
        resting=len(state.resting),
        failing=len(reconciler.last),
        devices=dict(Counter(reconciler.reach.values())),
        trouble=tuple(trouble),
        suspect=updater.suspect,
    )


def why(updater: Updater, address: IPv4Address) -> Why:
    """Say why a VIP, or the VIP of a TIP, is where it is. Raises `UnknownError`."""
    record = updater.vip(updater.state.owner(address) or address)
    reconciler = updater.reconciler
    last = reconciler.last.get(record.address)
    return Why(
        vip=record.address,
        revision=record.revision,
        switch=record.switch,
        returning=record.returning,
        leaving=record.leaving,
        held=record.held,
        reasons=tuple(_reasons(record)),
        waits_for=tuple(_waits(updater, record)),
        problems=tuple(last.problems()) if last else (),
        retry_in_s=reconciler.queue.retry_in(record.address),
    )


def _reasons(record: VipRecord) -> list[str]:
    by = "an operator put it there" if record.held else "the engine put it there"
    found = [f"{_where(record, f'VIP {record.address}')}: {by}"]
    found += [_where(placed, f"TIP {placed.tip.address}") for placed in record.tips]
    if record.layout.pinned:
        found.append(f"{len(record.layout.pinned)} live flows are pinned to their DIP")
    found += record.out_of_service()
    return found


def _where(carried: Carried, what: str) -> str:
    if carried.switch is not None:
        return f"{what} is on {carried.switch}"
    return f"{what} is on the SMuxes" + (f", waiting for {carried.returning}" if carried.returning else "")


def _waits(updater: Updater, record: VipRecord) -> list[str]:
    reconciler = updater.reconciler
    found = []
    for address, carried in record.carried().items():
        for name in carried.leaving:
            found.append(f"{name} to be seen to withdraw {address}")
        if carried.returning is not None:
            found.append(f"{address}: {reconciler.why_not(record, address, carried.returning)}")
    if outcome := reconciler.last.get(record.address):
        found += [f"{name} to answer" for name in sorted(outcome.away)]
    if kept := sorted(record.kept(updater.state.down(record.address))):
        found.append(f"{', '.join(map(str, kept))} down, but kept in service")
    if suspected := sorted(updater.suspected(record.address)):
        found.append(f"{', '.join(map(str, suspected))} to look down for longer: more than half do at once")
    return found
