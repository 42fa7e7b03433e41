"""What the controller remembers and what its modules tell each other: VIPs as wanted, events, traffic."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from pydantic import Field, JsonValue

from duet_p4.model import VIP_CHECK, Checked, Dip, Model, MuxTip, MuxVip, Vip

ON_SMUXES = "smux"
"""What an operator says in place of a switch's name: the SMuxes."""


class Carried(Model):
    """What a switch may carry: `switch` is the one that shall; None leaves it to the SMuxes."""

    switch: str | None = None
    returning: str | None = Field(
        default=None,
        description="The switch that it waits for on the SMuxes: until the flows of a change have settled, "
        "or there is room",
    )
    leaving: tuple[str, ...] = Field(
        default=(),
        description="Switches that were told to give it up, and were not seen to: as long as there is one, "
        "no other announces it",
    )

    @property
    def home(self) -> str | None:
        """The switch where it belongs: the one that carries it, or that it waits for."""
        return self.switch or self.returning


class PlacedTip(Carried):
    """A share of a large VIP's DIPs, and the switch that carries it."""

    tip: MuxTip


class VipRecord(Carried):
    """All that is wanted of one VIP.

    `spec` is what the operator said, `layout` its slot tables as every mux shall hold them. `revision`
    counts what operators said of it: the spec, and where it shall be by hand.
    """

    spec: Vip
    layout: MuxVip
    tips: tuple[PlacedTip, ...] = ()
    held: bool = Field(
        default=False, description="An operator placed it by hand; the engine does not move it"
    )
    revision: int = 1
    unsettled: bool = Field(
        default=False,
        description="Its layout changed while flows were live: those that began until every SMux had it may "
        "be with other DIPs than its slots say, until servers have been asked once more",
    )

    @property
    def address(self) -> IPv4Address:
        """The VIP."""
        return self.spec.address

    def members(self) -> dict[str, dict[IPv4Address, Dip]]:
        """Return the DIPs that are in a group: in the default one (``), and in those of ports by name."""
        groups = [placed.tip.group for placed in self.tips]
        if not groups and self.layout.group is not None:
            groups = [self.layout.group]
        found = {VIP_CHECK: {dip.address: dip for group in groups for dip in group.members}}
        ports = self.layout.ports
        return found | {port.name: {dip.address: dip for dip in port.group.members} for port in ports}

    def in_service(self) -> dict[str, set[IPv4Address]]:
        """Return the same but for those that get no new flows although the operator gave them a weight."""
        weights = {name: {dip.address: dip.weight for dip in dips} for name, dips in self._stated().items()}
        return {
            name: {a for a, dip in members.items() if dip.weight or not weights.get(name, {}).get(a)}
            for name, members in self.members().items()
        }

    def _stated(self) -> dict[str, tuple[Dip, ...]]:
        return {VIP_CHECK: self.spec.dips} | {port.name: port.dips for port in self.spec.ports}

    def left_out(self) -> set[IPv4Address]:
        """Return the DIPs that are out of service: stated, but with new flows from no group."""
        served = set[IPv4Address]().union(*self.in_service().values())
        return {dip.address for dip in self.spec.all_dips()} - served

    def away(self) -> dict[str, list[Dip]]:
        """Return, by the name of its group, the DIPs that are stated for it but in it no more."""
        members = self.members()
        return {
            name: away
            for name, dips in self._stated().items()
            if (away := [dip for dip in dips if dip.address not in members.get(name, ())])
        }

    def out_of_service(self) -> list[str]:
        """Say which DIPs are, and for which port where not for all."""
        wholly, found = self.left_out(), []
        if wholly:
            found.append(f"out of service: {', '.join(map(str, sorted(wholly)))}")
        served = self.in_service()
        for name, dips in self._stated().items():
            if partly := sorted({dip.address for dip in dips} - served.get(name, set()) - wholly):
                where = f"port {name}" if name else "ports without a group"
                found.append(f"out of service for {where}: {', '.join(map(str, partly))}")
        return found

    def kept(self, down: Iterable[Checked]) -> set[IPv4Address]:
        """Return the DIPs that have a place in a group although they are down for it."""
        served = self.in_service()
        groups = [(VIP_CHECK, VIP_CHECK), *((port.name, port.check) for port in self.spec.ports)]
        return {
            one.dip
            for one in down
            for name, check in groups
            if check == one.check and one.dip in served.get(name, ())
        }

    def carried(self) -> dict[IPv4Address, Carried]:
        """Return the VIP and its TIPs."""
        return {self.address: self, **{placed.tip.address: placed for placed in self.tips}}


class Resting(Model):
    """A VIP or TIP that is wanted no more, and not to be given out again yet.

    `switches` may still announce it; `since` is the Unix time at which it was given up.
    """

    address: IPv4Address
    switches: tuple[str, ...] = ()
    since: float


class RecordFeed(Model):
    """What changed of the wanted VIPs since a version; where it is the `whole`, forget what was before."""

    version: int
    whole: bool
    records: tuple[VipRecord, ...]
    removed: tuple[IPv4Address, ...] = ()


class Event(Model):
    """Something that happened: a failure, a change, a repair."""

    id: int
    time: float
    kind: str
    subject: str
    detail: dict[str, JsonValue]


class TrafficSample(Model):
    """Mean traffic of one VIP from one ingress switch to one DIP over a monitoring interval."""

    vip: IPv4Address
    source: str
    dip: IPv4Address
    bps: float
    pps: float
