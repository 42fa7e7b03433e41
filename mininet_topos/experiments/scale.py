"""`duet bench scale`: the controller with a data centre's number of VIPs, on the paper's testbed.

What grows with the number of VIPs is measured twice, with few and with all, in one run on one testbed: the
ratio says more than either on a machine that has other work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console

from controller.client import LONG_S, ControllerClient
from controller.engine.live.api import AssignmentRequest
from controller.records import Event
from controller.updater.apply import WantedVip
from controller.updater.reads import Placement
from duet_p4 import results
from duet_p4.api.service import State
from duet_p4.model import Dip, Vip
from duet_p4.rest.client import RestError
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.cpu import CpuTime
from mininet_topos.experiments.setting import Running, Say, running
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed.folder import TestbedError
from mininet_topos.testbed.protocol import Request, ask

FAILED = "tor4"
"""The switch that dies; no server and no SMux of an experiment's own depends on it."""

FEW = 10
CLIENTS = 16
"""How many operators add VIPs at once."""

_PROBED = 10
_ADDED = addresses.VIPS[-3000]
_EACH = 8
_POLL_S = 0.05
_AWAIT_S = 600.0

Answer = TypeVar("Answer")

notes = Console(stderr=True)


@click.command()
@click.option("--vips", type=click.IntRange(FEW, 60_000), default=30_000, show_default=True)
@click.option("--runs", type=click.IntRange(3, 50), default=20, show_default=True, help="VIPs added singly.")
@click.option("--name", default="bench-scale", show_default=True, help="Name of the testbed.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Also write JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def scale(vips: int, runs: int, name: str, out: Path | None, as_json: bool) -> None:
    """Give the controller of the paper's testbed many VIPs of two DIPs.

    Adding one, by one client and by sixteen at once; an HMux that dies with one VIP and with all it can
    hold; the controller's restart; a resync that finds nothing to do.
    """
    try:
        record = measure(name, vips, runs, lambda line: notes.print(f"  {line}"))
    except (TestbedError, RestError, RuntimeError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    if out:
        results.write_json(out / "scale.json", record)
    if as_json:
        click.echo(results.to_json(record))
        return
    for key, value in record.items():
        if isinstance(value, int | float):
            click.echo(f"{key:>24}: {value:.4g}")


def measure(name: str, vips: int, runs: int, say: Say) -> dict[str, Any]:
    """Run the benchmark on a testbed of its own, and return its record."""
    record: dict[str, Any] = {"vips": vips, "few": FEW}
    switches: list[str | None] = [FAILED, *["tor1", "tor2", "tor3", "agg1", "agg2", "agg3", "core1", "core2"]]
    with running(name, [*switches, None], controller=True, say=say) as testbed:
        pairs = _pairs(testbed)

        def note(**values: Any) -> None:
            record.update(values)
            say(", ".join(f"{key} {_short(value)}" for key, value in values.items()))

        def do(job: Callable[[ControllerClient], Awaitable[Answer]]) -> Answer:
            return _with_controller(testbed, job)

        do(_settled)
        note(add_vip_ms_median_few=do(lambda c: _add_singly(c, pairs, runs)))
        note(**_rates(do, pairs, "few"))
        note(failover_ms_few=_fail_over(testbed, testbed.vips[:1]))
        do(_settled)
        cpu = CpuTime(testbed.folder.bound())
        note(load_s=do(lambda c: _load(c, pairs, vips)))
        record["load_cpu_s_of"] = cpu.seconds()
        note(load_cpu_s=sum(record["load_cpu_s_of"].values()))
        status = do(lambda c: c.status())
        note(hmux_vips=status.on_hmuxes, smux_vips=status.vips)
        note(add_vip_ms_median_full=do(lambda c: _add_singly(c, pairs, runs)))
        note(growth=record["add_vip_ms_median_full"] / record["add_vip_ms_median_few"])
        note(**_rates(do, pairs, "full"))
        note(resync_s=do(_resync))
        note(controller_mb=_peak_mb(testbed))
        note(restart_s=do(lambda c: _restart(c, testbed)))
        do(_settled)
        on_failed = do(lambda c: _on(c, FAILED))
        note(failover_vips=len(on_failed))
        note(failover_ms_full=_fail_over(testbed, on_failed[:_PROBED], restore=False))
        note(replaced_s=do(_replaced))
        testbed.restore(FAILED)
        note(controller_mb=max(record["controller_mb"], _peak_mb(testbed)))
    return record | {"runs": runs, "clients": CLIENTS, "load": os.getloadavg(), "machine": results.machine()}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(testbed: Running) -> list[tuple[Dip, Dip]]:
    """Return pairs of DIPs that are on different servers, none of them behind the switch that dies."""
    servers = fattree.nodes(testbed.graph, Kind.SERVER)
    nodes = [node for node in servers if node.is_dip and node.container == 1]
    prefixes = [list(node.prefix) for node in nodes if node.prefix is not None]
    found = [Dip(address=address) for same in zip(*prefixes, strict=True) for address in same]
    return list(zip(found, found[1:] + found[:1], strict=True))


def _vip(address: IPv4Address, pairs: Sequence[tuple[Dip, Dip]]) -> Vip:
    return Vip(address=address, dips=pairs[int(address) % len(pairs)])


async def _settled(client: ControllerClient) -> None:
    """Wait until every device holds what it should."""
    deadline = time.monotonic() + _AWAIT_S
    while True:
        status = await client.status()
        if not status.queue_depth and not status.failing and not status.trouble:
            devices = await client.devices()
            doubtful = [device.name for device in devices if not device.confirmed or device.queued]
            if not doubtful:
                return
            await client.resync()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the devices do not settle: {status}")
        await asyncio.sleep(_POLL_S)


async def _load(client: ControllerClient, pairs: Sequence[tuple[Dip, Dip]], count: int) -> float:
    """State VIPs and have the engine place them; returns the seconds until every device holds them."""
    began = time.monotonic()
    wanted = [WantedVip(vip=_vip(addresses.VIPS[1 + n], pairs)) for n in range(FEW, count)]
    for one in await client.apply_all(wanted):
        if one.problem is not None:
            raise RuntimeError(f"{one.vip}: {one.problem.detail}")
    result = await client.compute(AssignmentRequest(strategy="greedy"))
    await client.assign(Placement(address=p.address, switch=p.switch) for p in result.placements)
    await _settled(client)
    return time.monotonic() - began


async def _add_singly(client: ControllerClient, pairs: Sequence[tuple[Dip, Dip]], runs: int) -> float:
    """Add VIPs one after the other; returns the median time, in ms, until each is where it shall be."""
    took = []
    for number in range(runs):
        vip = _vip(_ADDED + number, pairs)
        began = time.monotonic()
        await client.add_vip(vip)
        took.append((time.monotonic() - began) * 1e3)
    for number in range(runs):
        await client.remove_vip(_ADDED + number)
    await _settled(client)
    return float(np.median(took))


def _rates(
    do: Callable[[Callable[[ControllerClient], Awaitable[float]]], float],
    pairs: Sequence[tuple[Dip, Dip]],
    when: str,
) -> dict[str, float]:
    """Return how many VIPs a second one client adds, and many at once."""
    one = do(lambda client: _rate(client, pairs, 1))
    many = do(lambda client: _rate(client, pairs, CLIENTS))
    return {
        f"one_client_vips_per_s_{when}": one,
        f"clients_vips_per_s_{when}": many,
        f"clients_over_one_{when}": many / one,
    }


async def _rate(client: ControllerClient, pairs: Sequence[tuple[Dip, Dip]], clients: int) -> float:
    vips = [_vip(_ADDED + 500 + n, pairs) for n in range(clients * _EACH)]
    waiting = list(vips)

    async def operator() -> None:
        while waiting:
            await client.add_vip(waiting.pop())

    began = time.monotonic()
    await asyncio.gather(*(operator() for _ in range(clients)))
    rate = len(vips) / (time.monotonic() - began)
    await asyncio.gather(*(client.remove_vip(vip.address) for vip in vips))
    await _settled(client)
    return rate


async def _on(client: ControllerClient, switch: str) -> list[IPv4Address]:
    return [record.address for record in await client.vips(switch=switch)]


def _fail_over(testbed: Running, vips: Sequence[IPv4Address], *, restore: bool = True) -> float:
    """Let the switch die; returns how long, in ms, the slowest of some VIPs of its is away."""
    with testbed.probing(tuple(vips)) as found:
        time.sleep(0.5)
        testbed.fail(FAILED)
        time.sleep(1.5)
    (samples,) = found
    if restore:
        testbed.restore(FAILED)
        testbed.await_settled(dict.fromkeys(vips, FAILED))
    return max(sum(seconds for _, seconds in samples.outages(n)) for n in range(len(vips))) * 1e3


async def _replaced(client: ControllerClient) -> float:
    """Return how long after the switch was given up the last of its VIPs had another home."""
    deadline = time.monotonic() + _AWAIT_S
    while not (lost := [e for e in await _events(client) if (e.kind, e.subject) == ("device-lost", FAILED)]):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{FAILED} is not given up")
        await asyncio.sleep(_POLL_S)
    while await client.vips(switch=FAILED) or (await client.status()).queue_depth:
        if time.monotonic() > deadline:
            raise RuntimeError(f"VIPs of {FAILED} find no other home")
        await asyncio.sleep(_POLL_S)
    return time.time() - lost[-1].time


async def _events(client: ControllerClient) -> list[Event]:
    return await client.events(limit=1000)


async def _resync(client: ControllerClient) -> float:
    """Return how long it takes to find that every device holds what it should."""
    began = time.monotonic()
    report = await client.resync()
    took = time.monotonic() - began
    if report.done or report.writes:
        raise RuntimeError(f"a resync finds something to do: {report}")
    return took


def _controller(testbed: Running) -> int:
    answer = ask(testbed.folder, Request(do="status"))
    (pid,) = [process.pid for process in answer.processes if process.name == "controller"]
    if pid is None:
        raise RuntimeError("the controller does not run")
    return pid


def _peak_mb(testbed: Running) -> float:
    status = Path(f"/proc/{_controller(testbed)}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


async def _restart(client: ControllerClient, testbed: Running) -> float:
    """Kill the controller; returns how long it takes until it is ready again."""
    before = await client.status()
    os.kill(_controller(testbed), signal.SIGKILL)
    began = time.monotonic()
    while True:
        try:
            health = await client.health()
            if health.state is State.READY and (await client.status()).vips == before.vips:
                return time.monotonic() - began
        except RestError:
            pass
        if time.monotonic() > began + _AWAIT_S:
            raise RuntimeError("the controller does not come back")
        await asyncio.sleep(_POLL_S)


def _with_controller(testbed: Running, job: Callable[[ControllerClient], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with agents_module.controller(testbed.folder, LONG_S) as controller:
            return await job(controller)

    return asyncio.run(run())


__all__ = ["measure", "scale"]
