"""The self-check: what a working testbed does, seen from its clients.

Every check is a name, a verdict and a sentence that says what was seen.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from math import sqrt
from typing import Any

import networkx as nx

from controller.records import VipRecord
from controller.updater.plan import DeviceState, Entry
from controller.updater.wanted import mux_entries
from duet_p4.api.service import State
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import Group, Model, MuxTip, MuxVip, Protocol
from duet_p4.rest.client import RestError
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import holdings, probe
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan, Target
from mininet_topos.testbed.probe import Exchange
from mininet_topos.testbed.protocol import Answer
from mininet_topos.testbed.supervisor import ProcessStatus
from mininet_topos.testbed.supervisor import State as ProcessState

HTTP_PORT = 80
_TIMEOUT_S = 4.0
_PARALLEL = {Target.XDP: 32, Target.BMV2: 8}
"""Exchanges of a client at a time. An egress queue of BMv2 holds 64 packets; TCP makes up for what it loses,
but after a second each time."""

_CONNECTIONS = 24
"""TCP connections from each client to each port of each VIP."""

_UNDER_WAY_S, _ASK_AGAIN_S = 3.0, 0.3
"""How long a device may differ from what is wanted before that is wrong."""

_PINGS = 2
_DATAGRAMS = 4
_TOLD = 5
_Z_LIMIT = 4.0
"""How many standard deviations a spread may be off: one in 30,000 right ones fails by chance."""


class Check(Model):
    """One verdict."""

    name: str
    ok: bool
    detail: str


def run(folder: Folder, graph: nx.Graph, launcher: Answer) -> list[Check]:
    """Run every check on a running testbed."""

    async def ask() -> tuple[list[Check], dict[str, DeviceState], list[VipRecord] | str]:
        async with agents_module.connect(folder, graph) as agents:
            answering, check = await reachable(agents)
            established = await sessions(answering)
            deadline = time.monotonic() + _UNDER_WAY_S
            while True:
                states = await holdings.observe(answering)
                try:
                    records: list[VipRecord] | str = await holdings.records(folder)
                except (RestError, OSError, TestbedError) as error:
                    records = str(error)
                wanted = as_wanted(graph, records, states)
                # The controller goes on meanwhile. What is under way is done soon, what is wrong stays.
                if wanted.ok or time.monotonic() > deadline:
                    return [check, established, wanted], states, records
                await asyncio.sleep(_ASK_AGAIN_S)

    verdicts, states, records = asyncio.run(ask())
    return [processes(launcher), *verdicts, *traffic(folder, graph, states, records)]


async def reachable(agents: Agents) -> tuple[Agents, Check]:
    """Every agent answers that it is ready; also returns those that answer at all."""

    async def one(name: str) -> tuple[str, str | None, bool]:
        try:
            health = await agents.all[name].health()
        except (RestError, ValueError) as error:
            return name, str(error), False
        return name, None if health.state is State.READY else f"{health.state} ({health.detail})", True

    rows = await agents_module.gather([one(name) for name in agents.all])
    wrong = [f"{name}: {problem}" for name, problem, _ in rows if problem is not None]
    detail = "; ".join(wrong) or f"{len(rows)} agents are ready"
    answering = agents.only({name for name, _, answers in rows if answers})
    return answering, Check(name="agents", ok=not wrong, detail=detail)


def processes(answer: Answer) -> Check:
    """Every process runs; one that ended by itself and runs again is told of."""
    down = [_down(process, answer.failed) for process in answer.processes if _is_down(process)]
    again = [
        f"{p.node}/{p.name} was started again {_times(p.restarts)}, the last end: {p.exit}"
        for p in answer.processes
        if p.restarts and not _is_down(p)
    ]
    running = f"{len(answer.processes) - len(down)} of {len(answer.processes)} processes run"
    told = [part for part in (_some(down), running, _some(again)) if part]
    return Check(name="processes", ok=not down, detail="; ".join(told))


def _is_down(process: ProcessStatus) -> bool:
    return process.state is not ProcessState.RUNNING


def _down(process: ProcessStatus, failed: Sequence[str]) -> str:
    why = f"{process.node} was made to fail" if process.node in failed else process.exit
    return f"{process.node}/{process.name} is {process.state} ({why})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


async def sessions(agents: Agents) -> Check:
    """Every BGP session of every switch and SMux is established."""
    statuses = await agents_module.gather([client.status() for client in agents.muxes.values()])
    rows = [(status.name, session) for status in statuses for session in status.sessions]
    down = [f"{name} to {session.name}: {session.state}" for name, session in rows if not session.established]
    expected = _expected_sessions(agents.graph)
    detail = f"{len(rows) - len(down)} of {expected} ends of BGP sessions are established"
    return Check(name="bgp", ok=not down and len(rows) == expected, detail="; ".join([detail, *down]))


def as_wanted(
    graph: nx.Graph, records: Sequence[VipRecord] | str, states: Mapping[str, DeviceState]
) -> Check:
    """Every VIP has all the DIPs that were stated, and every device holds and announces what it shall.

    `records` is what is wanted, or why that is not known.
    """
    if isinstance(records, str):
        return Check(name="wanted", ok=False, detail=f"what is wanted is not known: {records}")
    wrong = [*holdings.unsettled(records), *holdings.undone(graph, records, states)]
    dips = {dip.address for record in records for dip in record.spec.all_dips()}
    homes = Counter(carried.switch for record in records for carried in record.carried().values())
    detail = (
        f"{len(records)} VIPs with {len(dips)} DIPs are as stated on all {len(states)} devices: with their "
        f"TIPs, {homes.total() - homes[None]} are on HMuxes and all {homes.total()} on the SMuxes"
    )
    return Check(name="wanted", ok=not wrong, detail=_some(wrong) or detail)


def _some(wrong: Sequence[str]) -> str:
    """Return what is wrong, or the first of it."""
    more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
    return "; ".join(wrong[:_TOLD]) + more


def traffic(
    folder: Folder, graph: nx.Graph, states: Mapping[str, DeviceState], records: Sequence[VipRecord] | str
) -> list[Check]:
    """From every client to every VIP: TCP, UDP and ping are answered, each flow by the DIP of its slot.

    The slots are those of an SMux or, if none answers, those that are wanted.
    """
    key = Plan.load(folder).flow_key
    clients = fattree.nodes(graph, Kind.CLIENT)
    smux = next((states[name] for name in sorted(states) if name.startswith(Kind.SMUX)), None)
    held: Mapping[IPv4Address, Entry]
    if smux is not None:
        held = smux.entries
    elif not isinstance(records, str):
        held = {a: entry for record in records for a, (entry, _) in mux_entries(record).items()}
    else:
        detail = "not tested: no SMux answers, and what is wanted is not known"
        return [Check(name="vips", ok=False, detail=detail)]
    vips = {address: entry for address, entry in held.items() if isinstance(entry, MuxVip)}
    tips = {address: entry for address, entry in held.items() if isinstance(entry, MuxTip)}
    parallel = _PARALLEL[Plan.load(folder).target]
    jobs = {
        client.name: (
            folder.namespace(client.name),
            partial(_exchanges, client.address, list(vips.values()), parallel),
        )
        for client in clients
    }
    found = probe.run_in(jobs)
    checks = []
    for address, vip in sorted(vips.items()):
        own = {
            name: [exchange for exchange in exchanges if exchange.flow.destination == address]
            for name, exchanges in found.items()
        }
        checks.append(_answered(vip, own))
        checks.append(_by_slot(vip, tips, own.values(), key))
        checks += _spread(vip, tips, own.values())
    return checks


def expected_dip(flow: Flow, vip: MuxVip, tips: Mapping[IPv4Address, MuxTip], key: int) -> IPv4Address | None:
    """Return the DIP that a flow to a VIP must reach, by the slots; None if its port has none.

    `key` is the muxes' (`duet_p4.flow_hash`).
    """
    group = _group(flow, vip)
    if group is None:
        return None
    member = group.member(flow_hash(flow, key)).address
    return tips[member].group.member(tip_hash(flow, key)).address if member in tips else member


async def _exchanges(source: IPv4Address, vips: Sequence[MuxVip], parallel: int) -> list[Exchange]:
    slots = asyncio.Semaphore(parallel)

    async def one(work: Callable[[], Coroutine[Any, Any, Exchange]]) -> Exchange:
        async with slots:
            return await work()

    work: list[Callable[[], Coroutine[Any, Any, Exchange]]] = []
    for vip in vips:
        for port in tcp_ports(vip):
            work += [partial(probe.http, source, vip.address, port, _TIMEOUT_S)] * _CONNECTIONS
        if vip.group is not None:
            work.append(partial(_datagram, partial(probe.udp, source, vip.address, probe.UDP_ECHO_PORT)))
            work += [partial(_datagram, partial(probe.ping, source, vip.address))] * _PINGS
    return list(await asyncio.gather(*(one(item) for item in work)))


async def _datagram(send: Callable[[float], Coroutine[Any, Any, Exchange]]) -> Exchange:
    """Send a datagram as applications do: again, if no answer comes."""
    exchange = await send(_TIMEOUT_S / _DATAGRAMS)
    for _ in range(_DATAGRAMS - 1):
        if exchange.error is not None:
            exchange = await send(_TIMEOUT_S / _DATAGRAMS)
    return exchange


def tcp_ports(vip: MuxVip) -> list[int]:
    """Return the TCP ports of a VIP that HTTP is expected on."""
    ports = [group.port for group in vip.ports if group.protocol is Protocol.TCP]
    return sorted({*ports, HTTP_PORT} if vip.group is not None else set(ports))


def _answered(vip: MuxVip, found: Mapping[str, Sequence[Exchange]]) -> Check:
    total = sum(map(len, found.values()))
    wrong = [
        f"{client} {_name(exchange.flow)}: {exchange.error}"
        for client, exchanges in found.items()
        for exchange in exchanges
        if exchange.error is not None
    ]
    slowest = max((exchange.seconds for exchanges in found.values() for exchange in exchanges), default=0)
    detail = (
        f"{total} TCP, UDP and ICMP exchanges from {len(found)} clients, the slowest {slowest * 1000:.0f} ms"
    )
    if wrong:
        detail = f"{len(wrong)} of {total} failed: {_some(wrong)}"
    return Check(name=f"vip {vip.address} answers", ok=not wrong and total > 0, detail=detail)


def _by_slot(
    vip: MuxVip, tips: Mapping[IPv4Address, MuxTip], found: Iterable[Sequence[Exchange]], key: int
) -> Check:
    answered = [exchange for exchanges in found for exchange in exchanges if exchange.dip is not None]
    wrong = [
        f"{_name(exchange.flow)} reached {exchange.dip}, its slot says {expected}"
        for exchange in answered
        if (expected := expected_dip(exchange.flow, vip, tips, key)) != exchange.dip
    ]
    detail = f"{len(answered)} flows reached the DIP that the SMuxes' slots say"
    return Check(
        name=f"vip {vip.address} dips", ok=bool(answered) and not wrong, detail=_some(wrong) or detail
    )


def _spread(
    vip: MuxVip, tips: Mapping[IPv4Address, MuxTip], found: Iterable[Sequence[Exchange]]
) -> list[Check]:
    """Compare how often each DIP answered with its share of slots, for each group (chi-square)."""
    answered = [exchange for exchanges in found for exchange in exchanges if exchange.dip is not None]
    checks = []
    for port in tcp_ports(vip):
        flows = [exchange for exchange in answered if exchange.flow.destination_port == port]
        if not flows:
            continue
        group = _group(flows[0].flow, vip)
        assert group is not None
        shares = _shares(group, tips)
        seen = Counter(exchange.dip for exchange in flows)
        z = chi_square_z([seen[dip] for dip in shares], [share * len(flows) for share in shares.values()])
        detail = (
            f"{len(flows)} flows over {len(seen)} of {len(shares)} DIPs, chi-square at {z:+.1f} deviations"
        )
        checks.append(Check(name=f"vip {vip.address} spread port {port}", ok=z < _Z_LIMIT, detail=detail))
    return checks


def chi_square_z(observed: Sequence[int], expected: Sequence[float]) -> float:
    """Return a chi-square statistic as standard deviations above its mean (Wilson-Hilferty).

    Cells are merged until each expects five or more, as the test requires.
    """
    cells: list[tuple[int, float]] = []
    count, weight = 0, 0.0
    for seen, wanted in zip(observed, expected, strict=True):
        count, weight = count + seen, weight + wanted
        if weight >= 5:
            cells.append((count, weight))
            count, weight = 0, 0.0
    if weight and cells:
        cells[-1] = (cells[-1][0] + count, cells[-1][1] + weight)
    freedom = len(cells) - 1
    if freedom < 1:
        return 0.0
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / sqrt(spread))


def _shares(group: Group, tips: Mapping[IPv4Address, MuxTip]) -> dict[IPv4Address, float]:
    shares: dict[IPv4Address, float] = {}
    for owner, slots in Counter(group.slots).items():
        address = group.members[owner].address
        share = slots / len(group.slots)
        if address in tips:
            for dip, part in _shares(tips[address].group, {}).items():
                shares[dip] = shares.get(dip, 0) + share * part
        else:
            shares[address] = shares.get(address, 0) + share
    return shares


def _group(flow: Flow, vip: MuxVip) -> Group | None:
    for port in vip.ports:
        if (port.protocol.number, port.port) == (flow.protocol, flow.destination_port):
            return port.group
    return vip.group


def _expected_sessions(graph: nx.Graph) -> int:
    """Count the ends that an agent tells of; the network outside has none."""
    by_name = {node.name: node for node in fattree.nodes(graph)}
    ends = [[by_name[port.node] for port in link.ends] for link in fattree.links(graph)]
    speaking = [nodes for nodes in ends if all(node.asn is not None for node in nodes)]
    return sum(node.management is not None for nodes in speaking for node in nodes)


def _name(flow: Flow) -> str:
    protocol = {6: "TCP", 17: "UDP", probe.ICMP: "ping"}[flow.protocol]
    return f"{protocol} {flow.source}:{flow.source_port} to {flow.destination}:{flow.destination_port}"
