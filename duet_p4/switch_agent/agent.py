"""The switch agent's process: host interfaces, BIRD, the mirror of the kernel's routes, VIPs, REST.

What dies when:

- The agent dies (kill -9): the P4 switch, the host interfaces and BIRD go on, so sessions stay up and the
  data path does not notice. A new agent takes them over, reads the switch's tables back, and writes only
  what differs.
- BIRD dies: sessions close, the agent starts it again.
- The P4 switch dies: the agent takes the links down for a moment, as a dead switch's would be, so that
  neighbours notice at once. It withdraws its VIPs and programs the switch anew when it is back.
- The agent is told to end (SIGTERM): BIRD ends too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import closing, suppress
from pathlib import Path

from fastapi import FastAPI
from pyroute2 import AsyncIPRoute

from duet_p4 import agent, netdev
from duet_p4.api.mux import PortStatus, SessionStatus
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import ProblemError
from duet_p4.api.service import Health, State
from duet_p4.bird import status
from duet_p4.bird.daemon import Bird, BirdError
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.routes import Place, RouteSizes, RouteTables
from duet_p4.hmux.rows import VIP_ROWS
from duet_p4.hmux.tables import VipSizes, VipTables
from duet_p4.rest.app import create_app
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from duet_p4.signals import told_to_end
from duet_p4.switch_agent.announcer import Announcer
from duet_p4.switch_agent.config import SwitchConfig
from duet_p4.switch_agent.fib import FibMirror
from duet_p4.switch_agent.hostif import HostInterfaces
from duet_p4.switch_agent.kernel import Kernel
from duet_p4.switch_agent.p4client import Switch, SwitchError
from duet_p4.switch_agent.service import HmuxService
from duet_p4.term import Terms

logger = logging.getLogger(__name__)

_RECONNECT_S = 0.1
_PROBE_S = 0.1
_DARK_S = 0.05


class SwitchAgent:
    """One switch's control plane. Make it outside of an event loop, then `run` it in one."""

    def __init__(self, config: SwitchConfig) -> None:
        """Take over the host interfaces that are there already, or make them; nothing is started yet."""
        self._config = config
        self._bird = Bird(config.routing(), config.state_dir)
        # The P4 switch forwards, not the kernel.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0\n", encoding="ascii")
        netdev.set_own_address(config.address)
        self._hostifs = HostInterfaces(config.ports)
        self._kernel = Kernel(config, self._hostifs.indices, self._on_carrier)
        self._announcer = Announcer(config.bird.announce_table)
        self._terms = Terms(config.state_dir / "term")
        self.service = HmuxService(
            config.name,
            config.p4.target,
            config.state_dir,
            self._announcer,
            self,
            self._terms,
            _vip_sizes(),
            config.drain_quiet_ms / 1000,
            config.drain_patience_ms / 1000,
        )
        self._fib: FibMirror | None = None
        self._suspected = asyncio.Event()
        self._controlled = False
        self._following = {port.number: asyncio.Lock() for port in config.ports}
        by_interface = {neighbor.interface: neighbor for neighbor in config.bird.neighbors}
        self._neighbors = {
            port.number: by_interface[port.interface]
            for port in config.ports
            if port.interface in by_interface
        }
        self._place = Place(
            uplinks=frozenset(port.number for port in config.ports if port.up), muxes=config.muxes
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = Health(state=State.STARTING, detail="waiting for the P4 switch")

    async def run(self) -> None:
        """Control the switch until told to end. Raises `BirdError` where BIRD does not start."""
        ended = told_to_end()
        async with AsyncIPRoute() as netlink:
            await self._announcer.load(netlink)
            await self._kernel.start(netlink)
            try:
                await self._control(ended)
            finally:
                self._kernel.stop()

    def close(self) -> None:
        """Remove the host interfaces, once no loop runs any more."""
        self._hostifs.close()

    async def _control(self, ended: asyncio.Event) -> None:
        sessions = asyncio.create_task(self._keep_session(), name="P4Runtime sessions")
        try:
            await self._bird.start()
            supervising = asyncio.create_task(self._bird.supervise(), name="BIRD")
            self._tasks.add(supervising)
            config = self._config
            async with serve(self._application(), str(config.listen), config.port, config.tls()) as url:
                logger.info("serves %s, P4 switch at %s", url, config.p4.address)
                await _until(ended, sessions, supervising)
        finally:
            for task in (*self._tasks, sessions):
                task.cancel()
            await asyncio.gather(*self._tasks, sessions, return_exceptions=True)
            await self._bird.stop()

    def health(self) -> Health:
        """Return whether the switch is under control."""
        if self._health.state is State.READY and self._bird.pid is None:
            return Health(state=State.DEGRADED, detail="BIRD does not run: nothing is announced")
        if self._health.state is State.READY and self.service.problem:
            return Health(state=State.DEGRADED, detail=self.service.problem)
        return self._health

    def ports(self) -> list[PortStatus]:
        """Return the front-panel ports and whether their links are up."""
        return [
            PortStatus(number=port.number, name=port.interface, up=self._kernel.carrier[port.number])
            for port in self._config.ports
        ]

    async def sessions(self) -> list[SessionStatus]:
        """Return the BGP sessions."""
        return await status.sessions(self._bird)

    def underlay(self) -> dict[str, tuple[int, int]]:
        """Return how full the underlay tables are."""
        return (self._fib.tables if self._fib else RouteTables(_route_sizes())).used()

    def host_ports(self) -> list[HostPort]:
        """Return the ports with hosts behind them."""
        return self._kernel.host_ports()

    def trouble(self) -> str:
        """Return what is wrong with the switch, or nothing."""
        return "" if self._health.state is State.READY else self._health.detail

    def suspect(self) -> None:
        """Have the switch's tables read back and repaired."""
        self._suspected.set()

    async def _keep_session(self) -> None:
        """Have a session with the switch, again and again."""
        while True:
            try:
                await self._session()
            except (SwitchError, ProblemError) as error:
                if self._controlled:
                    logger.error("%s", error)
                    self._health = Health(state=State.DEGRADED, detail=str(error))
            if self._controlled:
                self._controlled = False
                for port in self._config.ports:
                    self._later(self._follow_carrier(port.number))
                if not await listens(self._config.p4.address):
                    await self._go_dark()
            await self.service.detach()
            await asyncio.sleep(_RECONNECT_S)

    async def _session(self) -> None:
        """Control the switch for as long as it answers. Raises `SwitchError` in the end."""
        switch = Switch(self._config.p4.address, self._config.p4.device_id)
        async with switch.session() as lost:
            if await switch.ensure_pipeline():
                logger.info("pushed the pipeline")
                await self.service.detach()
            mirroring = None
            try:
                self._controlled = True
                for number, up in self._kernel.carrier.items():
                    self._on_carrier(number, up)
                await switch.configure(
                    [entries.configuration(self._config.address, self._config.seed), entries.punt()]
                )
                rows = await switch.read_rows()
                underlay = [row for row in rows if not isinstance(row, VIP_ROWS)]
                self._fib = FibMirror(
                    self._kernel, RouteTables(_route_sizes(), underlay, self._place), switch
                )
                mirroring = asyncio.create_task(self._fib.run(), name="FIB mirror")
                await _until(self._fib.settled, lost, mirroring)
                vips = VipTables(_vip_sizes(), [row for row in rows if isinstance(row, VIP_ROWS)])
                await self.service.attach(switch, vips)
                logger.info("controls the switch: found %d rows, wrote %d", len(rows), switch.writes)
                self._health = Health(state=State.READY)
                await _until(self._suspected, lost, mirroring)
                raise SwitchError("some writes are in doubt: reading the tables back")
            finally:
                self._suspected.clear()
                if mirroring is not None:
                    mirroring.cancel()
                    await asyncio.gather(mirroring, return_exceptions=True)
                self._fib = None

    async def _go_dark(self) -> None:
        """Take every link down for a moment: the switch is dead, and its neighbours should know."""
        logger.warning("the P4 switch is dead: taking the links down")
        indices = [netdev.index(port.interface) for port in self._config.ports]
        async with AsyncIPRoute() as netlink:
            for index in indices:
                await netlink.link("set", index=index, state="down")
            await asyncio.sleep(_DARK_S)
            for index in indices:
                await netlink.link("set", index=index, state="up")

    def _on_carrier(self, number: int, up: bool) -> None:
        """Follow a port's carrier, as long as the switch behind the port is alive."""
        if self._controlled:
            self._later(self._follow_carrier(number))

    async def _follow_carrier(self, number: int) -> None:
        """Tell BIRD, the neighbour table and then the host interface of a port's carrier.

        What leads around a dead link comes first: packets are being lost. BIRD's news can wait, since they
        set the whole fabric to work. BIRD would see the host interface's carrier by itself, but to take an
        interface down may hold up all changes of routes on the machine, so that comes last.
        """
        async with self._following[number]:
            up = self._controlled and self._kernel.carrier[number]
            if not up and self._fib is not None:
                await self._fib.written()
            neighbor = self._neighbors.get(number)
            if neighbor is not None:
                with suppress(BirdError):
                    await self._bird.set_session(neighbor, enabled=up)
            if up:
                await self._kernel.resolve(number)
            else:
                await self._kernel.forget(number)
            await asyncio.to_thread(self._hostifs.set_carrier, number, up)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _application(self) -> FastAPI:
        title = f"switch agent of {self._config.name}"
        app = create_app(title, token=self._config.token(), health=self.health, terms=self._terms)
        app.include_router(router(self.service))
        return app


async def listens(address: str) -> bool:
    """Return whether a server, such as the P4 switch, takes connections at `host:port` and keeps them.

    While a process ends, its listening socket may outlive its connections.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(_PROBE_S):
            return bool(await reader.read(1))
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        writer.close()


def _run(config: SwitchConfig) -> None:
    with closing(SwitchAgent(config)) as switch_agent:
        asyncio.run(switch_agent.run())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the switch agent; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.switch_agent", description="The agent of a DUET switch.")
    return agent.main(parser, argv, SwitchConfig, _run)


def _vip_sizes() -> VipSizes:
    sizes = pipeline.sizes()
    return VipSizes(
        host=sizes["host_table"],
        acl=sizes["acl_table"],
        ecmp=sizes["ecmp_table"],
        tunneling=sizes["tunneling_table"],
        pinned=sizes["pinned_flow_table"],
    )


def _route_sizes() -> RouteSizes:
    sizes = pipeline.sizes()
    return RouteSizes(
        route=sizes["route_table"],
        backstop=sizes["backstop_table"],
        nexthop_group=sizes["nexthop_group_table"],
        nexthop_slot=sizes["nexthop_slot_table"],
        nexthop=sizes["nexthop_table"],
    )


async def _until(event: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for an event; where a task ends before, raise what it raises."""
    waiting = asyncio.create_task(event.wait())
    try:
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()
