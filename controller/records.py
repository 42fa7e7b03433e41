"""What the controller remembers and what its modules tell each other: VIPs as wanted, events, traffic."""

from __future__ import annotations

from ipaddress import IPv4Address

from pydantic import Field, JsonValue

from duet_p4.model import Model, MuxTip, MuxVip, Vip

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

    @property
    def address(self) -> IPv4Address:
        """The VIP."""
        return self.spec.address

    def left_out(self) -> set[IPv4Address]:
        """Return the DIPs that are out of service: stated, but in no group."""
        served = {dip.address for group in self.layout.groups() for dip in group.members}
        served |= {dip.address for placed in self.tips for dip in placed.tip.group.members}
        return {dip.address for dip in self.spec.all_dips()} - served

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
