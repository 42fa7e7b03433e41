"""From what is wanted and what the muxes hold to an ordered list of changes.

The order is the paper's: every migration passes through the SMuxes. First the SMuxes learn what is
new, then switches withdraw what they shall no longer carry (the SMuxes' covering prefix takes over),
and only when the fabric has converged do switches program and announce what they shall carry. So no
table ever holds the old and the new, and a swap between two full switches cannot deadlock.

A VIP that nothing holds yet has no traffic to protect. So the switch that shall carry it programs it while
the SMuxes learn of it, where the switch has nothing to give up first; announcing it still comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from duet_p4.api.host import HostVip
from duet_p4.model import Model, MuxTip, MuxVip

Entry = MuxVip | MuxTip | HostVip


class DeviceKind(StrEnum):
    """What a device is to the updater, the one that takes the longest first.

    Only switches are changed in the two middle waves.
    """

    SWITCH = "switch"
    SMUX = "smux"
    SERVER = "server"


@dataclass
class DeviceState:
    """What one device holds, or shall hold, by VIP or TIP, and which of them it announces.

    A server announces nothing; what it holds counts as announced, so that states compare.
    """

    kind: DeviceKind
    entries: dict[IPv4Address, Entry] = field(default_factory=dict)
    announced: set[IPv4Address] = field(default_factory=set)

    def hold(self, entry: Entry, *, announced: bool = True) -> None:
        """Have it hold an entry in place of the one of that address."""
        self.entries[entry.address] = entry
        if announced:
            self.announced.add(entry.address)
        else:
            self.announced.discard(entry.address)


class Wave(StrEnum):
    """The waves of an update, in order."""

    BACK_UP = "back up"
    WITHDRAW = "withdraw"
    ANNOUNCE = "announce"
    CLEAN = "clean"


_ORDER = {wave: place for place, wave in enumerate(Wave)}


class Action(StrEnum):
    """What a step does on a device; a put programs and announces."""

    PUT = "put"
    PROGRAM = "program"
    ANNOUNCE = "announce"
    DELETE = "delete"


class Step(Model):
    """One request to one device."""

    wave: Wave
    device: str
    action: Action
    address: IPv4Address
    why: str


class Plan(Model):
    """Steps in the order of their waves; steps of a wave are independent of each other."""

    steps: tuple[Step, ...] = ()

    def wave(self, wave: Wave) -> list[Step]:
        """Return the steps of one wave."""
        return [step for step in self.steps if step.wave == wave]


def plan_update(wanted: Mapping[str, DeviceState], observed: Mapping[str, DeviceState]) -> Plan:
    """Return the steps from `observed` to `wanted`; a device absent from `observed` is out of reach.

    What is right already gets no step. Steps are in a fixed order, so a plan can be compared.
    """
    fresh = _fresh(wanted, observed)
    kinds = list(DeviceKind)
    devices = sorted(set(wanted) & set(observed), key=lambda name: (kinds.index(wanted[name].kind), name))
    steps: list[Step] = []
    for device in devices:
        want, have = wanted[device], observed[device]
        gone = sorted(set(have.entries) - set(want.entries))
        carries = want.kind is DeviceKind.SWITCH

        def add(wave: Wave, action: Action, address: IPv4Address, why: str, device: str = device) -> None:
            steps.append(Step(wave=wave, device=device, action=action, address=address, why=why))

        for address in sorted(want.entries):
            why = _difference(want, have, address)
            if why is None:
                continue
            if carries and address in fresh and not gone:
                add(Wave.BACK_UP, Action.PROGRAM, address, why)
                add(Wave.ANNOUNCE, Action.ANNOUNCE, address, why)
            else:
                add(Wave.ANNOUNCE if carries else Wave.BACK_UP, Action.PUT, address, why)
        for address in gone:
            add(Wave.WITHDRAW if carries else Wave.CLEAN, Action.DELETE, address, "not wanted here")
    return Plan(steps=tuple(sorted(steps, key=lambda step: _ORDER[step.wave])))


def _fresh(wanted: Mapping[str, DeviceState], observed: Mapping[str, DeviceState]) -> set[IPv4Address]:
    """Return the addresses that nothing holds yet; none where there is no SMux to say so."""
    if all(state.kind is not DeviceKind.SMUX for state in observed.values()):
        return set()
    found = set[IPv4Address]().union(*(state.entries for state in wanted.values()))
    return found.difference(*(state.entries for state in observed.values()))


def _difference(want: DeviceState, have: DeviceState, address: IPv4Address) -> str | None:
    held = have.entries.get(address)
    if held is None:
        return "missing"
    wanted = want.entries[address]
    if held is not wanted and held != wanted:
        return "differs"
    if address not in have.announced:
        return "not announced"
    return None
