"""All VIPs, a line each: what a list of tens of thousands shows, and what changed of it since it was read."""

from __future__ import annotations

from ipaddress import IPv4Address

from controller.records import VipRecord
from controller.state import State
from duet_p4.model import Model


class VipLine(Model):
    """A VIP in one line; `out` counts its DIPs that are out of service, `pinned` its pinned flows."""

    address: IPv4Address
    name: str | None
    switch: str | None
    waits_for: str | None
    held: bool
    dips: int
    out: int
    tips: int
    pinned: int
    revision: int


class Listing(Model):
    """The lines that are new since a version; where it is the `whole`, forget what was before."""

    version: int
    whole: bool
    vips: tuple[VipLine, ...]
    removed: tuple[IPv4Address, ...] = ()


def listing(state: State, after: int) -> Listing:
    """Return what changed since a version; 0 is before everything."""
    feed = state.feed(after)
    return Listing(
        version=feed.version,
        whole=feed.whole,
        vips=tuple(_line(record) for record in feed.records),
        removed=feed.removed,
    )


def _line(record: VipRecord) -> VipLine:
    spec = record.spec
    # Checked already, as every record is.
    return VipLine.model_construct(
        address=record.address,
        name=spec.name,
        switch=record.switch,
        waits_for=record.returning,
        held=record.held,
        dips=len({dip.address for dip in spec.all_dips()}),
        out=len(record.left_out()),
        tips=len(record.tips),
        pinned=len(record.layout.pinned),
        revision=record.revision,
    )
