"""From what is wanted and what the muxes hold to an ordered list of changes.

The order is the paper's: every migration passes through the SMuxes. First the SMuxes learn what is
new, then switches withdraw what they shall no longer carry (the SMuxes' covering prefix takes over),
and only when the fabric has converged do switches program and announce what they shall carry. So no
table ever holds the old and the new, and a swap between two full switches cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from duet_p4.host_agent.model import HostVip
from duet_p4.model import Model, MuxTip, MuxVip

Entry = MuxVip | MuxTip | HostVip


class DeviceKind(StrEnum):
    """What a device is to the updater. Only switches are changed in the two middle waves."""

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


class Wave(StrEnum):
    """The waves of an update, in order."""

    BACK_UP = "back up"
    WITHDRAW = "withdraw"
    ANNOUNCE = "announce"
    CLEAN = "clean"


class Action(StrEnum):
    """What a step does on a device; a put announces too."""

    PUT = "put"
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
    steps: list[Step] = []
    for device in sorted(set(wanted) & set(observed)):
        want, have = wanted[device], observed[device]
        put_wave, delete_wave = (
            (Wave.ANNOUNCE, Wave.WITHDRAW) if want.kind is DeviceKind.SWITCH else (Wave.BACK_UP, Wave.CLEAN)
        )
        for address in sorted(want.entries):
            if why := _difference(want, have, address):
                put = Step(wave=put_wave, device=device, action=Action.PUT, address=address, why=why)
                steps.append(put)
        for address in sorted(set(have.entries) - set(want.entries)):
            why = "not wanted here"
            delete = Step(wave=delete_wave, device=device, action=Action.DELETE, address=address, why=why)
            steps.append(delete)
    order = list(Wave)
    return Plan(steps=tuple(sorted(steps, key=lambda step: order.index(step.wave))))


def _difference(want: DeviceState, have: DeviceState, address: IPv4Address) -> str | None:
    held = have.entries.get(address)
    if held is None:
        return "missing"
    if held != want.entries[address]:
        return "differs"
    if address not in have.announced:
        return "not announced"
    return None
