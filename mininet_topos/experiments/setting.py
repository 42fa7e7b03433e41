"""The setting that the experiments share: ten VIPs on the paper's testbed, and a prober on a client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Generic, TypeVar

import networkx as nx
import numpy as np

from controller.records import ON_SMUXES
from duet_p4 import results
from duet_p4.hmux.rows import RouteRow
from duet_p4.model import Dip, Vip
from duet_p4.results import Estimate
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.probe import Samples
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import namespaces, operation
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.plan import Plan, SmuxPath, Target
from mininet_topos.testbed.protocol import Request, ask
from mininet_topos.testbed.vipfile import StatedVip

PROBE_INTERVAL_S = 0.003
"""The paper's: a ping to every VIP each 3 ms."""

PROBER = "client1"
"""The client that probes: it is on ToR 1, whose SMux and whose servers no experiment touches."""

_AWAIT_S = 60.0
_POLL_S = 0.05
_DISCARDS = 5

Say = Callable[[str], None]

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Running:
    """A testbed that serves the VIPs of an experiment."""

    folder: Folder
    graph: nx.Graph
    stated: tuple[StatedVip, ...]

    @property
    def vips(self) -> tuple[IPv4Address, ...]:
        """The addresses of the VIPs."""
        return tuple(entry.vip.address for entry in self.stated)

    def fail(self, what: str) -> float:
        """Let a node or link fail; returns when it was asked to (realtime clock, seconds)."""
        asked = time.time()
        ask(self.folder, Request(do="fail", what=what))
        return asked

    def restore(self, what: str) -> None:
        """Bring a node or link back."""
        ask(self.folder, Request(do="restore", what=what))

    def with_agents(self, job: Callable[[Agents], Awaitable[Any]]) -> Any:
        """Run a coroutine with clients of every agent."""

        async def run() -> Any:
            async with agents_module.connect(self.folder, self.graph) as agents:
                return await job(agents)

        return asyncio.run(run())

    def await_settled(self, where: dict[IPv4Address, str]) -> None:
        """Wait until every BGP session is up and each VIP of `where` is announced by its switch.

        Raises TimeoutError saying what is still amiss.
        """

        async def settled(agents: Agents) -> str:
            statuses = await asyncio.gather(*(mux.status() for mux in agents.muxes.values()))
            down = [f"{s.name}-{b.name}" for s in statuses for b in s.sessions if not b.established]
            if down:
                return f"BGP sessions {', '.join(down)} are down"
            for vip, switch in where.items():
                state = await agents.switches[switch].get_vip(vip)
                if not state.announced:
                    return f"{switch} does not announce {vip}"
            return ""

        async def wait(agents: Agents) -> None:
            await agents_module.await_ready(agents, time.monotonic() + _AWAIT_S, lambda *_: None)
            deadline = time.monotonic() + _AWAIT_S
            while amiss := await settled(agents):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the testbed does not settle: {amiss}")
                await asyncio.sleep(_POLL_S)

        self.with_agents(wait)

    def routes(self) -> dict[str, int]:
        """Return how many routes each switch holds."""

        async def ask(agents: Agents) -> dict[str, int]:
            statuses = await asyncio.gather(*(agent.status() for agent in agents.switches.values()))
            return {
                name: status.tables[RouteRow.table].used
                for name, status in zip(agents.switches, statuses, strict=True)
            }

        found: dict[str, int] = self.with_agents(ask)
        return found

    def await_routes(self, least: Mapping[str, int]) -> None:
        """Wait until each switch holds so many routes. Raises TimeoutError naming those that do not."""
        deadline = time.monotonic() + _AWAIT_S
        while True:
            held = self.routes()
            if not (missing := [name for name, count in least.items() if held[name] < count]):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(missing)} hold fewer routes than before the failure")
            time.sleep(_POLL_S)

    @contextmanager
    def probing(
        self,
        targets: tuple[IPv4Address, ...],
        prober: str = PROBER,
        interval_s: float = PROBE_INTERVAL_S,
        flows: int = 1,
        in_turn: bool = False,
    ) -> Iterator[list[Samples]]:
        """Probe `targets` from a client's namespace; the list holds the samples after the block.

        Each target has so many flows, which take turns. With `in_turn` the targets do, too: each is probed
        every `interval_s`, and they are spread over it.
        """
        found: list[Samples] = []
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "samples.npz"
            command = [sys.executable, "-m", "mininet_topos.experiments.probe", *map(str, targets)]
            command += [
                "--interval-ms",
                str(interval_s * 1000),
                "--duration-s",
                "60",
                "--flows",
                str(flows),
                "--out",
                str(out),
                *(["--in-turn"] if in_turn else []),
            ]
            ready, write = os.pipe()
            with namespaces.entered(self.folder.namespace(prober)):
                process = subprocess.Popen(
                    [*command, "--ready-fd", str(write)], stderr=subprocess.PIPE, pass_fds=(write,)
                )
            os.close(write)
            try:
                with os.fdopen(ready, "rb") as pipe:
                    if not pipe.read(1):
                        raise RuntimeError(f"the prober does not start: {_errors(process)}")
                yield found
                process.send_signal(signal.SIGTERM)
                if process.wait(timeout=90) != 0:
                    raise RuntimeError(f"the prober failed: {_errors(process)}")
                found.append(Samples.load(out))
            finally:
                process.kill()
                process.wait()
                assert process.stderr is not None
                process.stderr.close()


def _errors(prober: subprocess.Popen[bytes]) -> str:
    prober.kill()
    assert prober.stderr is not None
    return prober.stderr.read().decode().strip()


@contextmanager
def running(
    name: str,
    switches: list[str | None],
    *,
    dips: int = 2,
    target: Target = Target.XDP,
    smux_path: SmuxPath = SmuxPath.XDP,
    size: fattree.FatTree = fattree.PAPER,
    spread: bool = False,
    controller: bool,
    log_level: str = "INFO",
    say: Say,
) -> Iterator[Running]:
    """Bring up a testbed (the paper's) with a VIP of `dips` DIPs for each entry of `switches`; take it down.

    An entry is the switch that carries the VIP, or None for the SMuxes. DIPs are in container 1 only, so
    that an experiment may fail switches of container 2 without failing a DIP. Those of a VIP are servers in a
    row, so mostly of one rack, or with `spread` of both.
    """
    plan = Plan(
        size=size,
        target=target,
        smux_path=smux_path,
        controllers=int(controller),
        log_level=log_level,
    )
    graph = fattree.fattree(plan.size)
    servers = [n for n in fattree.nodes(graph, Kind.SERVER) if n.is_dip and n.container == 1]
    stated = []
    used: Counter[str] = Counter()
    for number, switch in enumerate(switches):
        first, step = (number, len(servers) / dips) if spread else (number * dips, 1)
        places = [servers[(first + int(k * step)) % len(servers)] for k in range(dips)]
        used.update(place.name for place in places)
        own = tuple(Dip(address=_address(place, used[place.name])) for place in places)
        vip = Vip(address=addresses.VIPS[1 + number], dips=own)
        stated.append(StatedVip(vip=vip, switch=switch or ON_SMUXES))
    folder = Folder(name)
    say(f"bringing up the testbed ({target}, {len(stated)} VIPs)")
    with operation.running(folder, plan, stated) as built:
        yield Running(folder, built, tuple(stated))


def _address(server: fattree.Node, index: int) -> IPv4Address:
    """Return a DIP of a server's; where there are more VIPs than it has addresses, they share some."""
    assert server.prefix is not None
    return server.prefix[index % server.prefix.num_addresses]


def brought_up(bringups: int, say: Say, measure: Callable[[], Measured]) -> list[Measured]:
    """Measure on several testbeds, one after the other, so that intervals hold what differs between them."""
    found = []
    for number in range(1, bringups + 1):
        say(f"bring-up {number} of {bringups}")
        found.append(measure())
    return found


def over_bringups(values: Iterable[Sequence[float]]) -> Estimate:
    """Return the mean of the medians of every bring-up's samples, with its interval over the bring-ups."""
    return results.estimate(float(np.median(list(samples))) for samples in values)


def told(value: Estimate, unit: str = " ms") -> str:
    """Return an estimate for a figure or a line of progress."""
    half = f"±{value.ci95:.1f}" if value.n > 1 else ""
    return f"{value.mean:.1f}{half}{unit}"


def error_of_probes(
    lateness_ms: Iterable[float], interval_s: float = PROBE_INTERVAL_S, what: str = "99%"
) -> str:
    """Say what a figure of pings cannot resolve; `lateness_ms` is the prober's, `what` of all says."""
    return (
        f"Errors: a ping every {interval_s * 1e3:g} ms, so an outage is known to within that; pings left "
        f"{max(lateness_ms):.2f} ms late ({what}); all nodes share {os.cpu_count()} cores, which real ones "
        f"do not."
    )


class Repetition(Generic[Measured]):
    """Repeats a measurement until `runs` of them can be trusted; those whose prober stalled are discarded.

    `stalled` says of one whether it did.
    """

    def __init__(
        self,
        runs: int,
        say: Say,
        stalled: Callable[[Samples, Measured], bool] = lambda samples, _: samples.stalled(),
    ) -> None:
        self._stalled = stalled
        self.discarded = 0
        self._runs = runs
        self._say = say

    def of(self, measure: Callable[[], tuple[Samples, Measured]]) -> Iterator[tuple[int, Samples, Measured]]:
        """Yield each run's number, from 1, and what was measured.

        Raises RuntimeError where more runs are discarded than were asked for, and more than `_DISCARDS`.
        """
        done = 0
        while done < self._runs:
            samples, measured = measure()
            if self._stalled(samples, measured):
                self.discarded += 1
                self._say(f"a run is discarded: the prober stalled ({self.discarded} so far)")
                if self.discarded > max(self._runs, _DISCARDS):
                    raise RuntimeError(
                        f"{self.discarded} runs discarded: this machine is too busy to measure"
                    )
                continue
            done += 1
            yield done, samples, measured


def write(out: Path, name: str, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write an experiment's summary (JSON, with the machine) and raw samples (CSV)."""
    results.write_json(out / f"{name}.json", summary | {"machine": results.machine()})
    results.write_csv(out / f"{name}.csv", rows)
