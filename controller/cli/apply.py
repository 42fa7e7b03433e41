"""`duet apply`, `duet diff`, `duet export`: all VIPs in one file.

A file is compared with what the controller has; only what differs is sent, each VIP with the revision that it
was compared with. So it may be interrupted at any time, and done again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from controller import vipfile
from controller.cli.progress import bar
from controller.cli.session import Session, with_session
from controller.client import ControllerClient
from controller.engine.live.api import AssignmentRequest
from controller.records import ON_SMUXES, VipRecord
from controller.updater import desired
from controller.updater.apply import FEW, Applied, Done, Gone, WantedVip
from controller.updater.outcome import Report
from controller.updater.reads import Placement
from controller.vipfile import StatedVip

_CHUNK = 500
_SHOWN = 20
_POLL_S = 0.2


@dataclass
class Difference:
    """What a file wants otherwise than it is. What is changed has the lines that say how."""

    added: list[StatedVip] = field(default_factory=list)
    changed: dict[IPv4Address, list[str]] = field(default_factory=dict)
    removed: list[IPv4Address] = field(default_factory=list)
    unchanged: int = 0
    vips: list[WantedVip] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.vips or self.gone)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "added": [str(stated.vip.address) for stated in self.added],
            "changed": {str(vip): lines for vip, lines in self.changed.items()},
            "removed": [str(vip) for vip in self.removed],
            "unchanged": self.unchanged,
        }


def compare(stated: Sequence[StatedVip], records: Iterable[VipRecord], *, prune: bool) -> Difference:
    """Return what of `stated` is not so; with `prune`, VIPs that are not stated are to be removed."""
    there = {record.address: record for record in records}
    found = Difference()
    for one in stated:
        record = there.pop(one.vip.address, None)
        if record is None:
            found.added.append(one)
            found.vips.append(WantedVip(vip=one.vip, switch=one.switch))
            continue
        lines = list(_changes(record, one))
        if lines:
            found.changed[record.address] = lines
            found.vips.append(WantedVip(vip=one.vip, switch=one.switch, revision=record.revision))
        else:
            found.unchanged += 1
    if prune:
        found.removed = sorted(there)
        found.gone = [Gone(vip=vip, revision=there[vip].revision) for vip in found.removed]
    return found


def _changes(record: VipRecord, stated: StatedVip) -> Iterator[str]:
    """Say how a VIP changes; nothing where it is so already."""
    target = None if stated.switch == ON_SMUXES else stated.switch
    after = desired.applied(record, stated.vip, target, by_hand=stated.switch is not None)
    if after is record:
        return
    old, new = record.spec, stated.vip
    before = {dip.address: dip for dip in old.all_dips()}
    now = {dip.address: dip for dip in new.all_dips()}
    if joined := sorted(now.keys() - before.keys()):
        yield f"+ {_some(joined)}"
    if left := sorted(before.keys() - now.keys()):
        yield f"- {_some(left)}"
    if weighed := sorted(a for a in now.keys() & before.keys() if now[a] != before[a]):
        yield f"other weight or host: {_some(weighed)}"
    for name in ("name", "ports", "snat", "health"):
        if getattr(old, name) != getattr(new, name):
            yield f"other {name}"
    if stated.switch is not None and (record.held, record.home) != (True, target):
        yield f"moved to {target or 'the SMuxes'}, from {record.home or 'the SMuxes'}"
    elif stated.switch is None and record.held:
        yield f"given back to the engine, from {record.home or 'the SMuxes'} by hand"


def _some(addresses: Sequence[IPv4Address]) -> str:
    more = f" and {len(addresses) - 5} more" if len(addresses) > 5 else ""
    return ", ".join(map(str, addresses[:5])) + more


def _file(command: Any) -> Any:
    path = click.Path(path_type=Path, dir_okay=False)
    prune = click.option("--prune", is_flag=True, help="Remove VIPs that the file does not state.")
    return click.argument("file", type=path)(prune(command))


def _read(file: Path) -> list[StatedVip]:
    try:
        return vipfile.read(file)
    except vipfile.VipFileError as error:
        raise click.ClickException(str(error)) from error


@click.command(short_help="What a VIP file would change.")
@_file
@with_session
def diff(session: Session, file: Path, prune: bool) -> None:
    """Compare a VIP file with what the controller has; nothing is changed."""
    stated = _read(file)
    found = compare(stated, session.ask(lambda c: c.vips()), prune=prune)
    session.show(found.plain(), lambda: _shown(found))


@click.command(short_help="Have what a VIP file states.")
@_file
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@with_session
def apply(session: Session, file: Path, prune: bool, dry_run: bool) -> None:
    """Have the VIPs that a file states, as a testbed takes it; show what that changes, and do it.

    What is so already is left alone. A VIP without `switch` goes where the engine says; where many are new,
    by one assignment at the end. It may be interrupted, and done again.
    """
    stated = _read(file)
    found = compare(stated, session.ask(lambda c: c.vips()), prune=prune)
    if dry_run:
        session.show(found.plain(), lambda: _shown(found))
        return
    if not session.as_json:
        for part in _shown(found):
            Console().print(part)
    applied, report = session.ask(lambda c: _carry_out(c, found, session))
    problems = {str(one.vip): one.problem.detail for one in applied if one.problem is not None}
    counts = {done.value: sum(one.done is done for one in applied) for done in Done}
    told = {**counts, "problems": problems, "assignment": report.model_dump(mode="json") if report else None}

    def people() -> Iterable[str]:
        yield ", ".join(f"{counts[done]} {done.value}" for done in (Done.ADDED, Done.CHANGED, Done.REMOVED))
        if report is not None:
            yield f"placed by the engine: {report.done} steps"
        yield from (f"failed: {detail}" for detail in list(problems.values())[:_SHOWN])

    session.show(told, people)
    if problems:
        sys.exit(1)


@click.command(short_help="All VIPs as a VIP file.")
@with_session
def export(session: Session) -> None:
    """Print all VIPs as `duet apply` takes them."""
    records = session.ask(lambda c: c.vips())
    plain = {"vips": [_plain(record) for record in records]}
    if session.as_json:
        session.show(plain, list)
    else:
        click.echo(yaml.dump(plain, Dumper=_DUMPER, sort_keys=False, allow_unicode=True), nl=False)


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _plain(record: VipRecord) -> dict[str, Any]:
    spec = record.spec.model_dump(mode="json", exclude_defaults=True)
    if "health" in spec and "kind" not in spec["health"] and record.spec.health is not None:
        spec["health"] = {"kind": record.spec.health.kind.value, **spec["health"]}
    return {**spec, **({"switch": record.home or ON_SMUXES} if record.held else {})}


def _shown(found: Difference) -> Iterator[Table | str]:
    if not found:
        yield f"nothing to do: {found.unchanged} VIPs are as stated"
        return
    table = Table("", "VIP", "what")
    rows = [("add", str(one.vip.address), f"{len(one.vip.all_dips())} DIPs") for one in found.added]
    rows += [("change", str(vip), "; ".join(lines)) for vip, lines in found.changed.items()]
    rows += [("remove", str(vip), "") for vip in found.removed]
    for row in rows[:_SHOWN]:
        table.add_row(*row)
    yield table
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more"
    yield (
        f"{len(found.added)} to add, {len(found.changed)} to change, {len(found.removed)} to remove; "
        f"{found.unchanged} are as stated"
    )


async def _carry_out(
    client: ControllerClient, found: Difference, session: Session
) -> tuple[list[Applied], Report | None]:
    unplaced = sum(item.revision is None and item.switch is None for item in found.vips)
    with bar(session, "VIPs", len(found.vips) + len(found.gone)) as tell:
        applied = await client.apply_all(found.vips, found.gone, tell)
        while (await client.status()).queue_depth:  # noqa: ASYNC110 - the controller's to tell
            await asyncio.sleep(_POLL_S)
    if unplaced <= FEW:
        return applied, None
    result = await client.compute(AssignmentRequest())
    placements = [Placement(address=place.address, switch=place.switch) for place in result.placements]
    with bar(session, "moves") as tell:
        return applied, await client.assign(placements, lambda stands: tell(stands.done, stands.total))
