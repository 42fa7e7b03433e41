"""`duet status`, `duet why`, `duet events`: what is, why, and what happened."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Any

import click
from rich.table import Table

from controller.cli import complete, render
from controller.cli.session import ADDRESS, Session, with_session
from controller.client import ControllerClient
from controller.updater.status import Why

_SHOWN = 5
_LOOK_S = 0.2
_LATELY_S = 300.0
"""For so long it is told of processes that had ended and were there again."""


@click.command(short_help="What happened.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--after", type=click.IntRange(0), help="Only events after this number.")
@click.option("--audit", is_flag=True, help="Only who stated what of VIPs: actor, revision, before, after.")
@with_session
def events(session: Session, limit: int, after: int | None, audit: bool) -> None:
    """What happened: failures, changes, repairs; the newest last."""
    found = session.ask(lambda c: c.audit(limit) if audit else c.events(after, limit))

    def people() -> Iterable[Table]:
        table = Table("#", "time", "event", "subject", "detail")
        for event in found:
            table.add_row(str(event.id), render.clock(event), event.kind, event.subject, render.detail(event))
        yield table

    session.show(found, people)


@click.command(short_help="Why a VIP is where it is.")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@click.option("--wait", type=click.FloatRange(0), help="Wait so many seconds until nothing is left to do.")
@with_session
def why(session: Session, address: IPv4Address, wait: float | None) -> None:
    """Why a VIP is where it is, what it waits for, what was tried last, and when it is tried again.

    With --wait the exit code is 1 where something is left to do in the end.
    """

    async def question(client: ControllerClient) -> Why:
        until = time.monotonic() + (wait or 0.0)
        while True:
            found = await client.why(address)
            if not _unfinished(found) or time.monotonic() >= until:
                return found
            await asyncio.sleep(_LOOK_S)

    found = session.ask(question)

    def people() -> Iterable[str]:
        yield from found.reasons
        yield from (f"  waits for {what}" for what in found.waits_for)
        yield from (f"  failed last: {what}" for what in found.problems)
        if found.retry_in_s is not None:
            yield f"  it is looked at again in {found.retry_in_s:.1f} s"
        elif found.waits_for or found.problems:
            yield "  it is looked at again when something changes"

    session.show(found, people)
    if wait is not None and _unfinished(found):
        sys.exit(1)


def _unfinished(found: Why) -> bool:
    return bool(found.waits_for or found.problems or found.leaving or found.returning)


@click.command(short_help="The controller at a glance.")
@with_session
def status(session: Session) -> None:
    """The controller at a glance: agents, VIPs, what is left to do, and what is out of order."""

    async def question(client: ControllerClient) -> dict[str, Any]:
        agents, updater, network, health = await asyncio.gather(
            client.agents(), client.status(), client.network(), client.health()
        )
        reach = Counter(agent.reach.value for agent in agents)
        return {
            "controller": health.model_dump(mode="json"),
            "agents": dict(reach),
            "out_of_order": [a.model_dump(mode="json") for a in agents if a.reach.value != "ready"],
            "restarted": {agent.name: agent.restarted for agent in agents if agent.restarted},
            "links_down": ["-".join(ends) for ends in network.links_down],
            "draining": list(network.draining),
            **updater.model_dump(mode="json"),
        }

    found = session.ask(question)

    def people() -> Iterable[str]:
        yield "agents: " + ", ".join(f"{count} {reach}" for reach, count in found["agents"].items())
        if found["controller"]["state"] != "ready":
            yield f"controller is {found['controller']['state']}: {found['controller']['detail']}"
        if found["suspect"]:
            yield f"nothing is taken for lost: {found['suspect']}"
        for agent in found["out_of_order"]:
            yield f"  {agent['name']} is {agent['reach']}: {agent['detail']}"
        known = {agent["name"] for agent in found["out_of_order"]}
        for device in found["trouble"]:
            if device["name"] not in known:
                again = f"; asked again in {device['retry_in_s']:.1f} s" if device["retry_in_s"] else ""
                yield f"  {device['name']}: {device['problem']}{again}"
        for name, processes in found["restarted"].items():
            for process, at in processes.items():
                if (ago := time.time() - at) < _LATELY_S:
                    yield f"  {name}: its {process} had ended, and was there again {ago:.0f} s ago"
        if drained := found["draining"]:
            yield f"  drained, so that others are preferred: {_some(drained)} (`duet drain SMUX --end`)"
        if found["links_down"]:
            yield f"  links down: {_some(found['links_down'])}"
        if found["cut_off"]:
            yield f"  servers that nothing can be sent to: {_some(found['cut_off'])}"
        for address, switch in list(found["waiting"].items())[:_SHOWN]:
            yield f"  {address} waits for {switch} on the SMuxes"
        if len(found["waiting"]) > _SHOWN:
            yield f"  and {len(found['waiting']) - _SHOWN} more"
        if down := found["dips_down"]:
            yield f"  DIPs out of service: {_some(down)}"
        if found["queue_depth"]:
            yield f"{found['queue_depth']} to be looked at, the oldest for {found['queue_oldest_s']:.1f} s"
        hmuxes, smuxes = found["on_hmuxes"], found["on_smuxes"]
        yield f"{found['vips']} VIPs; {hmuxes} VIPs and TIPs on HMuxes, {smuxes} on SMuxes"

    session.show(found, people)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
