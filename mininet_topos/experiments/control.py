"""`duet bench control`: how fast the control plane is, from a REST call to packets that follow it.

When a switch forwards by a route is read from its agent's log: the line is written once the P4 switch has
acknowledged the table writes. So nothing polls the switches while they are being measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from controller.client import ControllerClient
from controller.updater.plan import Wave
from duet_p4 import results
from duet_p4.model import Dip, MuxVip, Vip
from duet_p4.rest.client import RestError
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.experiments.agent_logs import AgentLogs
from mininet_topos.experiments.cpu import Costs
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.profile import profiled
from mininet_topos.experiments.setting import Running, Say, running
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import TestbedError

GOALS_MS = {
    "announce_ms": 50.0,
    "add_vip_ms": 50.0,
    "add_vip_512_ms": 250.0,
    "migrate_wave_ms": 100.0,
}
"""What is measured, and the time it should stay below."""

HOME, AWAY = "tor4", "agg3"
"""Between these a VIP migrates."""

EMPTY = "tor3"
"""VIPs are added here: one with 512 DIPs may take a whole table."""

LARGE = 512
_NEW_VIP = addresses.VIPS[500]
_FIRST_WRITTEN = addresses.VIPS[1000]
_IN_FLIGHT = 8
_QUIET_S = 0.2

notes = Console(stderr=True)


@click.command()
@click.option("--runs", type=click.IntRange(1, 20), default=10, show_default=True, help="Repetitions.")
@click.option("--writes", type=click.IntRange(8, 256), default=256, show_default=True, help="VIPs to write.")
@click.option("--name", default="bench-control", show_default=True, help="Name of the testbed.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Also write JSON and a figure.")
@click.option(
    "--profile", is_flag=True, help="Also write a flame graph of where the CPUs' time went to --out."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def control(runs: int, writes: int, name: str, out: Path | None, profile: bool, as_json: bool) -> None:
    """Announce, add, migrate and write VIPs on the paper's testbed.

    announce: from the request at a switch agent until the last switch forwards by the new /32.
    add_vip: from the request at the controller until a ping from a client is answered that was sent
    after every switch forwards to the HMux; with 2 DIPs, and with 512. migrate_wave: each of the two
    waves of a migration from one HMux to another. vip_writes_per_s: VIPs of two DIPs programmed at
    one switch agent. CPU: what one announcement and its withdrawal, or one VIP added and removed, take
    of all processes beyond the idle testbed.
    """
    if profile and out is None:
        raise click.UsageError("--profile writes to a folder: say which by --out")
    graph = out / "control.profile.svg" if out and profile else None
    try:
        with profiled(graph, "duet bench control") if graph else nullcontext():
            record = measure(name, runs, writes, lambda line: notes.print(f"  {line}"))
    except (TestbedError, RestError, RuntimeError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    if out:
        results.write_json(out / "control.json", record)
        results.save_figure(_figure(record), out / "control")
    if as_json:
        click.echo(results.to_json(record))
        return
    for what, goal in GOALS_MS.items():
        click.echo(
            f"{what.removesuffix('_ms'):>13}: median {record[f'{what}_median']:.1f} ms, "
            f"95% {record[f'{what}_p95']:.1f} ms (goal: below {goal:g})"
        )
    click.echo(f"   VIP writes: {record['vip_writes_per_s']:.0f} per second")
    for what in ("announce", "add_vip"):
        click.echo(
            f"{what:>13}: {record[f'{what}_cpu_ms']:.0f} ms of CPU over all processes, "
            f"as {record[f'{what}_round_trips']:.0f} HTTPS round trips"
        )
    click.echo(f"         idle: {record['idle_cores']:.2f} cores")


def measure(name: str, runs: int, writes: int, say: Say) -> dict[str, Any]:
    """Run the benchmark on two testbeds of its own; return its record, with every sample."""
    samples: dict[str, list[float]] = {}

    def note(what: str, values: list[float]) -> None:
        samples[what] = values
        say(f"{what}: median {np.median(values):.1f} of {len(values)}")

    # Agents that have a controller take writes from nobody else.
    with (
        running(name, [HOME], controller=False, log_level="DEBUG", say=say) as testbed,
        closing(AgentLogs(testbed.folder, _switches(testbed))) as logs,
    ):
        dips = _dips(testbed)
        costs = _costs(testbed)

        def announce() -> list[float]:
            found: list[float] = testbed.with_agents(
                lambda agents: _announce(agents, logs, testbed.vips[0], runs)
            )
            return found

        announced, announce_cpu_ms = costs.of(runs, announce)
        note("announce_ms", announced)
        rate = testbed.with_agents(lambda agents: _write(agents, dips, writes))
        say(f"vip_writes_per_s: {rate:.0f}")
    with (
        running(name, [HOME], controller=True, log_level="DEBUG", say=say) as testbed,
        closing(AgentLogs(testbed.folder, _switches(testbed))) as logs,
    ):
        _with_controller(testbed, _settle)
        loaded = _costs(testbed)
        added, add_cpu_ms = loaded.of(runs, lambda: _add(testbed, logs, dips[:2], runs))
        note("add_vip_ms", added)
        note("add_vip_512_ms", _add(testbed, logs, dips[:LARGE], runs))
        note("migrate_wave_ms", _with_controller(testbed, lambda c: _migrate(c, testbed.vips[0], runs)))
    record: dict[str, Any] = {}
    for what, values in samples.items():
        record[f"{what}_median"] = float(np.median(values))
        record[f"{what}_p95"] = float(np.quantile(values, 0.95))
    return record | {
        "vip_writes_per_s": rate,
        "idle_cores": loaded.idle_cores,
        "round_trip_cpu_ms": loaded.round_trip_ms,
        "announce_cpu_ms": announce_cpu_ms,
        "announce_round_trips": announce_cpu_ms / costs.round_trip_ms,
        "add_vip_cpu_ms": add_cpu_ms,
        "add_vip_round_trips": add_cpu_ms / loaded.round_trip_ms,
        "runs": runs,
        "switches": len(logs.switches),
        "target": "xdp",
        "goals_ms": GOALS_MS,
        "samples": samples,
        "machine": results.machine(),
    }


async def _settle(controller: ControllerClient) -> None:
    """Have the controller repair all there is to repair; done later, it would undo what is measured."""
    await controller.resync()


def _switches(testbed: Running) -> list[str]:
    return [node.name for node in fattree.nodes(testbed.graph, *SWITCHES)]


def _dips(testbed: Running) -> list[Dip]:
    """Return all DIPs there are, so that neighbours in the list are on different servers."""
    servers = [
        node.prefix for node in fattree.nodes(testbed.graph, Kind.SERVER) if node.is_dip and node.prefix
    ]
    return [Dip(address=prefix[n]) for n in range(1, servers[0].num_addresses) for prefix in servers] + [
        Dip(address=prefix[0]) for prefix in servers
    ]


def _costs(testbed: Running) -> Costs:
    def round_trips(count: int) -> None:
        testbed.with_agents(lambda agents: _round_trips(agents, count))

    return Costs(testbed.folder.bound(), round_trips)


async def _round_trips(agents: Agents, count: int) -> None:
    """Ask an agent how it is, again and again."""
    for _ in range(count):
        await agents.switches[EMPTY].health()


async def _announce(agents: Agents, logs: AgentLogs, vip: IPv4Address, runs: int) -> list[float]:
    """Withdraw a VIP that a switch holds, and time its return into every switch."""
    agent = agents.switches[HOME]
    found = []
    for _ in range(runs):
        began = time.time()
        await agent.withdraw_vip(vip)
        await logs.forwarding(vip, began, HOME)
        await asyncio.sleep(_QUIET_S)
        began = time.time()
        await agent.announce_vip(vip)
        found.append((await logs.forwarding(vip, began, HOME) - began) * 1e3)
        await asyncio.sleep(_QUIET_S)
    return found


def _add(testbed: Running, logs: AgentLogs, dips: Sequence[Dip], runs: int) -> list[float]:
    """Add a VIP again and again while a client pings it."""
    vip = Vip(address=_NEW_VIP, dips=tuple(dips))

    async def add(controller: ControllerClient) -> list[tuple[float, float]]:
        found = []
        for _ in range(runs):
            began = time.time()
            record = await controller.add_vip(vip, EMPTY)
            if record.switch != EMPTY:
                raise RuntimeError(f"{vip.address} is not on {EMPTY}: its tables have no room")
            found.append((began, await logs.forwarding(vip.address, began, EMPTY)))
            await asyncio.sleep(_QUIET_S)
            removed = time.time()
            await controller.remove_vip(vip.address)
            await logs.forwarding(vip.address, removed, EMPTY)
            await asyncio.sleep(_QUIET_S)
        return found

    with testbed.probing((vip.address,)) as probed:
        times = _with_controller(testbed, add)
    return [(_answered(probed[0], forwarding) - began) * 1e3 for began, forwarding in times]


def _answered(samples: Samples, since: float) -> float:
    """Return when the first reply came to a request that was sent after `since`."""
    sent, received = samples.sent[:, 0], samples.received[:, 0]
    replies = received[(sent >= since) & ~np.isnan(received)]
    if not replies.size:
        raise RuntimeError(f"{samples.targets[0]} never answers through its HMux")
    return float(replies.min())


async def _migrate(controller: ControllerClient, vip: IPv4Address, runs: int) -> list[float]:
    """Move a VIP from one HMux to another and back; returns both waves of every move."""
    found = []
    for _, target in zip(range(runs), _alternating(AWAY, HOME), strict=False):
        report = await controller.migrate(vip, target)
        if report.failed:
            raise RuntimeError(f"a migration failed: {'; '.join(report.failed)}")
        found += [report.wave_ms[wave.value] for wave in (Wave.WITHDRAW, Wave.ANNOUNCE)]
    return found


def _alternating(*values: str) -> Iterable[str]:
    while True:
        yield from values


async def _write(agents: Agents, dips: Sequence[Dip], count: int) -> float:
    """Write VIPs of two DIPs to a switch, a few requests in flight; returns VIPs per second.

    256 of them fill the ECMP table: each has 16 slots of 4096.
    """
    agent = agents.switches[EMPTY]
    pairs = list(pairwise(dips[:LARGE]))
    vips = [
        MuxVip.of(Vip(address=_FIRST_WRITTEN + number, dips=pairs[number % len(pairs)]))
        for number in range(count)
    ]
    slots = asyncio.Semaphore(_IN_FLIGHT)

    async def put(vip: MuxVip) -> None:
        async with slots:
            await agent.put_vip(vip, announce=False)

    began = time.monotonic()
    await asyncio.gather(*(put(vip) for vip in vips))
    return count / (time.monotonic() - began)


def _with_controller(testbed: Running, job: Callable[[ControllerClient], Any]) -> Any:
    async def run() -> Any:
        async with agents_module.controller(testbed.folder) as controller:
            return await job(controller)

    return asyncio.run(run())


def _figure(record: dict[str, Any]) -> Any:
    figure, axes = results.figure(figsize=(7, 3.8))
    names = list(GOALS_MS)
    drawn = axes.boxplot(
        [record["samples"][name] for name in names], patch_artist=True, showfliers=False, whis=(5, 95)
    )
    for box in drawn["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    for at, goal in enumerate(GOALS_MS.values(), 1):
        axes.hlines(goal, at - 0.3, at + 0.3, color=results.GREY, linestyle="--")
    axes.plot([], [], "--", color=results.GREY, label="goal")
    axes.set_xticks(
        range(1, len(names) + 1),
        ["announce\na /32", "add a VIP\n2 DIPs", f"add a VIP\n{LARGE} DIPs", "migrate\none wave"],
    )
    axes.set(yscale="log", ylabel="duration (ms)")
    axes.set_title(f"{record['runs']} runs; box: quartiles, whiskers: 5 to 95%")
    axes.legend()
    return figure


__all__ = ["control", "measure"]
