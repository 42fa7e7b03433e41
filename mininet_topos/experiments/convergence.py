"""Whether a testbed holds what its controller wants: every device is read back, and every VIP is asked.

Switches are read twice: through their agents, and over P4Runtime behind their agents' backs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import networkx as nx

from controller.records import VipRecord
from controller.updater.plan import Entry
from controller.updater.wanted import mux_entries
from duet_p4.hmux.rows import AclRow, HostRow, PinnedRow, Row, SlotRow, TunnelRow
from duet_p4.model import Group, MuxTip, MuxVip
from duet_p4.rest.client import RestError
from duet_p4.switch_agent.config import SwitchConfig
from duet_p4.switch_agent.p4client import Switch
from duet_p4.switch_agent.p4session import SwitchError
from mininet_topos import fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import checks, holdings, namespaces, probe
from mininet_topos.testbed.folder import Folder

_ANSWER_S = 3.0
_PORT = 80
_READERS = 2

Tunnels = dict[str, list[str]]
"""For a VIP or TIP, a port of it, or a pinned flow: the outer destination of each slot."""


async def undone(folder: Folder, graph: nx.Graph, records: Sequence[VipRecord]) -> list[str]:
    """Return what is still to be done on any device for it to hold `records`, as its agent tells.

    An agent that does not answer is such a thing too, and a BGP session that is down.
    """
    async with agents_module.connect(folder, graph) as agents:
        try:
            observed = await holdings.observe(agents)
            sessions = await checks.sessions(agents)
        except RestError as error:
            return [str(error)]
    down = [] if sessions.ok else [sessions.detail]
    return [*down, *holdings.undone(graph, records, observed)]


async def amiss(folder: Folder, graph: nx.Graph, records: Sequence[VipRecord]) -> list[str]:
    """Return what the controller itself misses, else what is still to be done on devices."""
    return holdings.unsettled(records) or await undone(folder, graph, records)


def misprogrammed(folder: Folder, graph: nx.Graph, records: Iterable[VipRecord]) -> list[str]:
    """Return how the load balancer's tables of every switch, read over P4Runtime, differ from `records`."""
    wanted: dict[str, Tunnels] = {node.name: {} for node in fattree.nodes(graph, *SWITCHES)}
    for record in records:
        for entry, switch in mux_entries(record).values():
            if switch is not None:
                wanted[switch] |= spelled_out(entry)
    reads = [(folder.namespace(name), folder.config(name, "agent")) for name in wanted]
    # gRPC's threads do not follow one into another namespace, so each reading has a process of its own.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(_READERS, mp_context=processes, max_tasks_per_child=1) as pool:
        found = list(pool.map(_read, *zip(*reads, strict=True)))
    lines = []
    for (name, want), have in zip(wanted.items(), found, strict=True):
        if isinstance(have, str):
            lines.append(f"{name} cannot be read: {have}")
            continue
        lines += [
            f"{name} sends {key} to {have.get(key)}, not to {want.get(key)}"
            for key in sorted(want.keys() | have.keys())
            if have.get(key) != want.get(key)
        ]
    return lines


def silent(folder: Folder, graph: nx.Graph, vips: Sequence[IPv4Address]) -> list[str]:
    """Ask every VIP from every client, by ping and over HTTP; return what did not answer."""

    async def questions(client: fattree.Node) -> list[str]:
        exchanges = await asyncio.gather(
            *(probe.ping(client.address, vip, _ANSWER_S) for vip in vips),
            *(probe.http(client.address, vip, _PORT, _ANSWER_S) for vip in vips),
        )
        return [f"{client.name} to {e.flow.destination}: {e.error}" for e in exchanges if e.error]

    clients = fattree.nodes(graph, Kind.CLIENT)
    jobs = {c.name: (folder.namespace(c.name), partial(questions, c)) for c in clients}
    return [line for lines in probe.run_in(jobs).values() for line in lines]


def programmed(rows: Iterable[Row]) -> Tunnels:
    """Return where the load balancer's tables of a switch send the flows of each VIP."""
    held = list(rows)
    encap = {row.tunnel: str(row.encap) for row in held if isinstance(row, TunnelRow)}
    slots = {row.slot: encap.get(row.tunnel, "nowhere") for row in held if isinstance(row, SlotRow)}
    found: Tunnels = {}
    for row in held:
        if isinstance(row, PinnedRow):
            key = _flow(row.destination, row.protocol, row.source, row.source_port, row.destination_port)
            found[key] = [encap.get(row.tunnel, "nowhere")]
        elif isinstance(row, HostRow | AclRow):
            key = (
                _port(row.address, row.protocol.number, row.port)
                if isinstance(row, AclRow)
                else str(row.address)
            )
            found[key] = [slots.get(slot, "nowhere") for slot in range(row.first, row.first + row.count)]
    return found


def spelled_out(entry: Entry) -> Tunnels:
    """Return where a switch shall send the flows of a VIP or TIP that it carries."""
    if isinstance(entry, MuxTip):
        return {str(entry.address): _slots(entry.group)}
    assert isinstance(entry, MuxVip)
    encap = {dip.address: str(dip.encap) for group in entry.groups() for dip in group.members}
    found = {str(entry.address): _slots(entry.group) if entry.group else []}
    for port in entry.ports:
        found[_port(entry.address, port.protocol.number, port.port)] = _slots(port.group)
    for pin in entry.pinned:
        key = _flow(entry.address, pin.protocol, pin.source, pin.source_port, pin.destination_port)
        found[key] = [encap[pin.dip]]
    return found


def _slots(group: Group) -> list[str]:
    return [str(group.members[owner].encap) for owner in group.slots]


def _port(vip: IPv4Address, protocol: int, port: int) -> str:
    return f"{vip} protocol {protocol} port {port}"


def _flow(vip: IPv4Address, protocol: int, source: IPv4Address, source_port: int, port: int) -> str:
    return f"{_port(vip, protocol, port)} from {source} port {source_port}"


def _read(namespace: Path, config: Path) -> Tunnels | str:
    """Read the switch of a namespace; returns why it cannot be read where it cannot."""
    namespaces.enter(namespace)
    try:
        return programmed(asyncio.run(_rows(SwitchConfig.from_file(config))))
    except SwitchError as error:
        return str(error)


async def _rows(config: SwitchConfig) -> list[Row]:
    switch = Switch(config.p4.address, config.p4.device_id)
    async with switch.channel():
        rows, _ = await switch.read_rows()
        return rows
