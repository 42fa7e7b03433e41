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

from controller.store import VipRecord
from duet_p4.model import Model, MuxTip, MuxVip

Entry = MuxVip | MuxTip


@dataclass
class MuxState:
    """What one mux holds, or shall hold: VIPs and TIPs by address, and which of them it announces."""

    entries: dict[IPv4Address, Entry] = field(default_factory=dict)
    announced: set[IPv4Address] = field(default_factory=set)


class Wave(StrEnum):
    """The waves of an update, in order."""

    BACK_UP = "back up"
    WITHDRAW = "withdraw"
    ANNOUNCE = "announce"
    CLEAN = "clean"


class Action(StrEnum):
    """What a step does on a mux; a put announces too."""

    PUT = "put"
    DELETE = "delete"


class Step(Model):
    """One request to one mux."""

    wave: Wave
    mux: str
    action: Action
    address: IPv4Address
    why: str


class Plan(Model):
    """Steps in the order of their waves; steps of a wave are independent of each other."""

    steps: tuple[Step, ...] = ()

    def wave(self, wave: Wave) -> list[Step]:
        """Return the steps of one wave."""
        return [step for step in self.steps if step.wave == wave]


def wanted_states(
    records: Mapping[IPv4Address, VipRecord], switches: list[str], smuxes: list[str]
) -> dict[str, MuxState]:
    """Return what every mux shall hold: the SMuxes everything, each switch what is placed on it."""
    wanted = {name: MuxState() for name in (*switches, *smuxes)}
    for record in records.values():
        placed: list[tuple[Entry, str | None]] = [(record.layout, record.switch)]
        placed += [(tip.tip, tip.switch) for tip in record.tips]
        for entry, switch in placed:
            for mux in [*smuxes, *([switch] if switch in wanted else [])]:
                wanted[mux].entries[entry.address] = entry
                wanted[mux].announced.add(entry.address)
    return wanted


def plan_update(wanted: Mapping[str, MuxState], observed: Mapping[str, MuxState], smuxes: list[str]) -> Plan:
    """Return the steps from `observed` to `wanted`; a mux absent from `observed` is out of reach.

    What is right already gets no step. Steps are in a fixed order, so a plan can be compared.
    """
    steps: list[Step] = []
    for mux in sorted(set(wanted) & set(observed)):
        want, have = wanted[mux], observed[mux]
        put_wave, delete_wave = (
            (Wave.BACK_UP, Wave.CLEAN) if mux in smuxes else (Wave.ANNOUNCE, Wave.WITHDRAW)
        )
        for address in sorted(want.entries):
            reason = _difference(want, have, address)
            if reason:
                steps.append(Step(wave=put_wave, mux=mux, action=Action.PUT, address=address, why=reason))
        steps += [
            Step(wave=delete_wave, mux=mux, action=Action.DELETE, address=address, why="not wanted here")
            for address in sorted(set(have.entries) - set(want.entries))
        ]
    order = list(Wave)
    return Plan(steps=tuple(sorted(steps, key=lambda step: order.index(step.wave))))


def _difference(want: MuxState, have: MuxState, address: IPv4Address) -> str | None:
    held = have.entries.get(address)
    if held is None:
        return "missing"
    if held != want.entries[address]:
        return "differs"
    if address not in have.announced:
        return "not announced"
    return None
