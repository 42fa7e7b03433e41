"""What commands show to people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address

from rich.table import Table

from controller.records import Carried, Event, VipRecord
from controller.updater.outcome import Report
from duet_p4.model import HealthCheckKind


def details(record: VipRecord) -> Iterable[Table | str]:
    """Show a VIP: where it is, its groups, and how many slots each DIP owns."""
    yield f"VIP {record.address} on {where(record)}"
    yield from (f"TIP {placed.tip.address} on {on(placed)}" for placed in record.tips)
    if record.spec.snat:
        yield "its DIPs connect out with the VIP as source (SNAT)"
    for name, check in record.spec.checks().items():
        path = check.path if check.kind in (HealthCheckKind.HTTP, HealthCheckKind.HTTPS) else ""
        what = f"{name} is checked" if name else "checked"
        yield f"{what} by {check.kind} on port {check.port}{path} every {check.interval_ms} ms"
    yield from (f"DIPs {said}" for said in record.out_of_service())
    groups = [("default", record.layout.group)] if record.layout.group else []
    groups += [(f"{port.protocol}/{port.port}", port.group) for port in record.layout.ports]
    groups += [(f"TIP {placed.tip.address}", placed.tip.group) for placed in record.tips]
    table = Table("group", "DIP or TIP", "weight", "slots")
    for name, group in groups:
        for index, member in enumerate(group.members):
            held = sum(1 for owner in group.slots if owner == index)
            table.add_row(name, str(member.address), str(member.weight), f"{held} of {len(group.slots)}")
    yield table


def standing(records: Iterable[VipRecord]) -> dict[IPv4Address, Carried]:
    """Return every VIP and TIP."""
    return {address: carried for record in records for address, carried in record.carried().items()}


def where(record: VipRecord) -> str:
    """Say where a VIP is, and whether by hand."""
    return on(record) + (" (by hand)" if record.held else "")


def on(carried: Carried) -> str:
    """Say what carries a VIP or TIP."""
    return f"SMuxes (waiting for {carried.returning})" if carried.returning else carried.switch or "SMuxes"


def done(report: Report) -> Iterable[str]:
    """Show what an update did."""
    yield f"{report.done} steps, {report.writes} table entries written"
    for wave, ms in report.wave_ms.items():
        yield f"  {wave}: {ms:.1f} ms"
    for failure in report.failed:
        yield f"  failed: {failure}"


def clock(event: Event) -> str:
    """Return the time of day of an event."""
    return datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")[:-3]


def detail(event: Event) -> str:
    """Return the rest of an event."""
    shown = {key: value for key, value in event.detail.items() if value is not None or key == "switch"}
    return ", ".join(f"{key} {'SMuxes' if value is None else value}" for key, value in shown.items())
