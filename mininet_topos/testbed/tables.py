"""What a testbed shows a person: its switches, BGP sessions and VIPs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import networkx as nx
from rich.console import Console, RenderableType
from rich.table import Table

from controller.updater.plan import DeviceKind, DeviceState
from duet_p4.api.mux import MuxCounters, MuxStatus
from duet_p4.model import Model, MuxTip, MuxVip
from duet_p4.rest.client import MuxClient, RestError
from mininet_topos import fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import holdings
from mininet_topos.testbed.checks import Check
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.protocol import Answer
from mininet_topos.testbed.supervisor import State


class VipRow(Model):
    """A VIP at a glance; `packets` is per mux that has carried it."""

    address: IPv4Address
    hmux: str | None
    dips: int
    tips: tuple[IPv4Address, ...]
    packets: dict[str, int]


@dataclass(frozen=True)
class View:
    """All that the tables are made of. A mux that does not answer has no status."""

    graph: nx.Graph
    statuses: dict[str, MuxStatus]
    vips: tuple[VipRow, ...]
    launcher: Answer


async def view(folder: Folder, graph: nx.Graph, launcher: Answer) -> View:
    """Ask every mux for its state and counters."""
    async with agents_module.connect(folder, graph) as agents:
        rows = await agents_module.gather([_ask(name, client) for name, client in agents.muxes.items()])
        alive = {name: row for name, row in rows if row is not None}
        states = await holdings.observe(agents.only(alive))
    counters = {name: counters for name, (_, counters) in alive.items()}
    return View(
        graph, {name: status for name, (status, _) in alive.items()}, vip_rows(states, counters), launcher
    )


async def _ask(name: str, client: MuxClient) -> tuple[str, tuple[MuxStatus, MuxCounters] | None]:
    try:
        status, counters = await asyncio.gather(client.status(), client.counters())
        return name, (status, counters)
    except RestError:
        return name, None


def vip_rows(states: Mapping[str, DeviceState], counters: Mapping[str, MuxCounters]) -> tuple[VipRow, ...]:
    """Return the VIPs that any mux holds, by address."""
    found: dict[IPv4Address, MuxVip] = {}
    tips: dict[IPv4Address, MuxTip] = {}
    for state in states.values():
        found |= {address: entry for address, entry in state.entries.items() if isinstance(entry, MuxVip)}
        tips |= {address: entry for address, entry in state.entries.items() if isinstance(entry, MuxTip)}
    rows = []
    for address, vip in sorted(found.items()):
        hmuxes = [
            name
            for name, state in states.items()
            if state.kind is DeviceKind.SWITCH and address in state.announced
        ]
        members = {dip.address for group in vip.groups() for dip in group.members}
        dips = {dip for dip in members if dip not in tips}
        dips |= {dip.address for tip in members & tips.keys() for dip in tips[tip].group.members}
        packets = {
            name: total
            for name, counts in counters.items()
            if (total := sum(count.packets for count in counts.vips if count.address == address))
        }
        rows.append(
            VipRow(
                address=address,
                hmux=hmuxes[0] if hmuxes else None,
                dips=len(dips),
                tips=tuple(sorted(members & tips.keys())),
                packets=packets,
            )
        )
    return tuple(rows)


def show(console: Console, now: View) -> None:
    """Print switches, SMuxes and VIPs."""
    console.print(_muxes(now))
    console.print(_vips(now.vips))
    wrong = [p for p in now.launcher.processes if p.state is State.CRASHED]
    for process in wrong:
        console.print(f"[red]{process.node}/{process.name} is down: {process.exit}[/]; see {process.log}")
    if now.launcher.failed:
        console.print(f"failed on purpose: {', '.join(now.launcher.failed)} (`restore` brings them back)")


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print verdicts, one a line."""
    for check in checks:
        verdict = "[green]ok  [/]" if check.ok else "[red]FAIL[/]"
        console.print(f"{verdict} {check.name}: {check.detail}", markup=True, soft_wrap=True)


def _muxes(now: View) -> RenderableType:
    table = Table(
        "switch", "AS", "loopback", "target", "BGP", "ports", "VIPs", "TIPs", "tunnels", title="Muxes"
    )
    for node in fattree.nodes(now.graph, *SWITCHES, Kind.SMUX):
        status = now.statuses.get(node.name)
        if status is None:
            table.add_row(node.name, str(node.asn), str(node.loopback), "[red]no answer[/]")
            continue
        up = sum(session.established for session in status.sessions)
        tunnels = status.tables.get("tunneling")
        table.add_row(
            node.name,
            str(node.asn),
            str(node.loopback),
            status.target,
            _of(up, len(status.sessions)),
            _of(sum(port.up for port in status.ports), len(status.ports)),
            str(status.vips),
            str(status.tips),
            f"{tunnels.used}/{tunnels.size}" if tunnels else "",
        )
    return table


def _vips(rows: Sequence[VipRow]) -> RenderableType:
    table = Table("VIP", "lives on", "DIPs", "through TIPs", "packets", title="VIPs")
    for row in rows:
        packets = ", ".join(f"{name} {count}" for name, count in sorted(row.packets.items()))
        tips = ", ".join(map(str, row.tips))
        table.add_row(str(row.address), row.hmux or "SMuxes", str(row.dips), tips, packets or "0")
    return table


def _of(up: int, total: int) -> str:
    return f"{up}/{total}" if up == total else f"[red]{up}/{total}[/]"
