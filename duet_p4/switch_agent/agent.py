"""The switch agent's process: host interfaces, BIRD, the mirror of the kernel's routes, VIPs, REST.

What dies when:

- The agent dies (kill -9), or is told to end (SIGTERM) as for an upgrade: the P4 switch, the host interfaces
  and BIRD go on, so sessions stay up and the data path does not notice. A new agent takes them over, reads
  the switch's tables back, and writes only what differs. `--detach` ends what an agent has left.
- BIRD dies: sessions close, the agent starts it again.
- A neighbour hangs with its ports up: the agent leads around it (`echo`), ahead of BFD.
- The P4 switch dies: the agent takes the links down for a moment, as a dead switch's would be, so that
  neighbours notice at once. It withdraws its VIPs and programs the switch anew when it is back.
- The session with the P4 switch is lost, or a write is in doubt: see `control`. Nothing is taken down.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence, Sized
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from ipaddress import IPv4Address
from pathlib import Path

from fastapi import FastAPI
from finsy.proto import p4r

from duet_p4 import agent, netdev
from duet_p4.api.mux import PortStatus, SessionStatus
from duet_p4.api.ports import HostPort, NeighbourPort, PortReport, Punted
from duet_p4.api.problems import ProblemError
from duet_p4.api.service import Health, State
from duet_p4.backoff import Backoff
from duet_p4.bird import status
from duet_p4.bird.daemon import Bird
from duet_p4.flows.service import FlowRecords
from duet_p4.hmux.routes import Place, RouteTables
from duet_p4.hmux.rows import UNDERLAY_ROWS, VIP_ROWS
from duet_p4.hmux.tables import VipTables
from duet_p4.reporter import PORT_REPORTS, reporter_of
from duet_p4.rest.app import create_app
from duet_p4.rest.routers import installed, trace
from duet_p4.rest.routers.flows import router as flow_records
from duet_p4.rest.routers.metrics import mux_router as mux_metrics
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from duet_p4.signals import told_to_end
from duet_p4.supervision import Tasks
from duet_p4.switch_agent import bmv2_tracing
from duet_p4.switch_agent.admission import admission
from duet_p4.switch_agent.announcer import Announcer
from duet_p4.switch_agent.config import PortConfig, SwitchConfig
from duet_p4.switch_agent.control import Control, Event, Phase
from duet_p4.switch_agent.echo import Echo
from duet_p4.switch_agent.fib import FibMirror
from duet_p4.switch_agent.hostif import HostInterfaces
from duet_p4.switch_agent.kernel import Kernel
from duet_p4.switch_agent.netlink import Dump, Route
from duet_p4.switch_agent.netlink_changes import Changes
from duet_p4.switch_agent.p4client import Switch
from duet_p4.switch_agent.p4session import SwitchError
from duet_p4.switch_agent.ports import Ports
from duet_p4.switch_agent.sampling import Sampling
from duet_p4.switch_agent.service import HmuxService
from duet_p4.switch_agent.targets import target_of
from duet_p4.switch_agent.tracing import follower
from duet_p4.telemetry import exporting
from duet_p4.term import Terms
from duet_p4.tracing.installers import SWITCH_TABLES, Installers
from duet_p4.tracing.traces import Follow, Traces

logger = logging.getLogger(__name__)

_RECONNECT_S = 0.1
_PROBE_S = 0.1
_DARK_S = 0.05
_NOTICE_S = 0.2
"""How long the end of a session may take to be noticed after a call that failed for it."""
_DOUBT_S = 0.02
_LONGEST_DOUBT_S = 5.0
_CALM_S = 30.0
_ADMISSION = "announcing what had to wait"
_CLEAN_UP_S = 1.0
_LONGEST_CLEAN_UP_S = 60.0


class SwitchAgent:
    """One switch's control plane. Make it outside of an event loop, then `run` it in one."""

    def __init__(self, config: SwitchConfig) -> None:
        """Take over the host interfaces that are there already, or make them; nothing is started yet."""
        self._config = config
        self._credentials = config.identify()
        self._bird = Bird(config.routing(), config.state_dir)
        # The P4 switch forwards, not the kernel.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0\n", encoding="ascii")
        netdev.set_own_address(config.address)
        self._target = target_of(config.p4)
        self._hostifs = HostInterfaces(
            config.ports,
            {neighbor.interface for neighbor in config.bird.neighbors},
            self._target.cpu_interface,
        )
        self._kernel = Kernel(config, self._hostifs.indices)
        self._announcer = Announcer(config.bird.announce_table)
        self._terms = Terms(config.state_dir / "term")
        self.service = HmuxService(
            config.name,
            config.p4.target,
            config.state_dir,
            self._announcer,
            self,
            self._terms,
            self._target.sizes_of(VIP_ROWS),
            config.drain_quiet_ms / 1000,
            config.drain_patience_ms / 1000,
            config.drain_least_ms / 1000,
        )
        self._fib: FibMirror | None = None
        self._foreign: list[p4r.TableEntry] = []
        self._stray = ""
        self._cold = False
        """Whether the switch has lost its tables since they were last in line."""
        self._suspected = asyncio.Event()
        self._why_suspected = ""
        self._control = Control(self._entered)
        self._was_ready = False
        sessions = {neighbor.interface: neighbor for neighbor in config.bird.neighbors}
        self._neighbours = {port.number: sessions.get(port.interface) for port in config.ports}
        self._ports = Ports(
            self._neighbours,
            self._bird,
            self._kernel,
            self._hostifs.set_carrier,
            self._written,
        )
        self._kernel.on_carrier = self._carrier_changed
        self._echo: Echo | None = None
        if config.echo is not None:
            routers = {port.number: port for port in config.ports if self._has_router(port)}
            self._echo = Echo(
                config.echo,
                config.address,
                routers,
                self._kernel.peer_mac,
                self._hostifs.send,
                self._hostifs.echoes,
                self._silence_changed,
            )
        self._place = Place(
            uplinks=frozenset(port.number for port in config.ports if port.up), muxes=config.muxes
        )
        self._traces = Traces(
            config.name,
            "switch",
            self._follower(),
            Installers(self.service.installed_by, SWITCH_TABLES, f"{config.name}'s agent, as BIRD routes"),
        )
        self._sampling = Sampling(config.address, lambda: self._p4_switch().open())
        self._flows = FlowRecords(config.name, "switch", config.flow_records, self._sampling.poll)
        self._tasks = Tasks()

    def _follower(self) -> Follow:
        """Return what follows packets of the P4 switch."""
        config = self._config
        if config.p4.log is not None and config.p4.events is not None:
            return bmv2_tracing.follower(config.name, config.p4.log, config.p4.events)
        return follower(config.name, lambda: self._p4_switch().open())

    async def run(self) -> None:
        """Control the switch until told to end."""
        ended = told_to_end()
        config = self._config
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(config.telemetry, "switch agent", config.name))
            changes = stack.enter_context(closing(Changes()))
            self._announcer.load(changes, _announced(config.bird.announce_table))
            stack.callback(self._kernel.stop)
            await self._kernel.start(changes)
            stack.push_async_callback(self._tasks.stop)
            stack.push_async_callback(self._traces.stop)
            self._tasks.start("the mirror of the kernel", self._kernel.follow)
            self._tasks.start("following the ports", self._ports.run)
            if self._echo is not None:
                self._tasks.start("asking neighbours whether they forward", self._echo.run)
            self._tasks.start("running BIRD", lambda: self._bird.supervise(self._ports.bird_restarted))
            self._tasks.start("the session with the switch", self._keep_session)
            self._tasks.start("cleaning up", self._clean_up)
            if config.flow_records.sampling:
                self._tasks.start("following samples", self._sampling.run)
                self._tasks.start("recording flows", self._flows.run)
            self.service.on_confirmation(lambda: self._tasks.start(_ADMISSION, self.service.admit))
            await self._report(stack)
            url = await stack.enter_async_context(
                serve(self._application(), str(config.listen), config.port, self._credentials)
            )
            logger.info("serves %s, P4 switch at %s", url, config.p4.address)
            await ended.wait()

    def health(self) -> Health:
        """Return whether the switch is under control and does what it should."""
        trouble = self.trouble() or self.service.problem
        bad = State.DEGRADED if self._was_ready else State.STARTING
        return Health(state=bad if trouble else State.READY, detail=trouble, processes=self._bird.processes())

    def trouble(self) -> str:
        """Return what is wrong with the switch, or nothing."""
        bird = f"BIRD does not run: {self._bird.problem or 'it is being started'}"
        found = (
            self._control.trouble(),
            self._fib.problem if self._fib is not None else "",
            bird if self._bird.pid is None or self._bird.problem else "",
            self._stray,
            self._tasks.problem(),
        )
        return "; ".join(filter(None, found))

    def ports(self) -> list[PortStatus]:
        """Return the front-panel ports and whether their links are up."""
        bytes_of = netdev.traffic()
        found = []
        for port in self._config.ports:
            received, sent = bytes_of.get(port.interface, (0, 0))
            found.append(
                PortStatus(
                    number=port.number,
                    name=port.interface,
                    up=self._kernel.alive(port.number),
                    peer=port.peer,
                    received_bytes=received,
                    sent_bytes=sent,
                )
            )
        return found

    def host_ports(self) -> list[HostPort]:
        """Return the ports with hosts behind them."""
        return self._kernel.host_ports()

    async def sessions(self) -> list[SessionStatus]:
        """Return the BGP sessions."""
        return await status.sessions(self._bird)

    def underlay(self) -> dict[str, tuple[int, int]]:
        """Return how full the underlay tables are."""
        tables = self._fib.tables if self._fib else RouteTables(self._target.sizes_of(UNDERLAY_ROWS))
        return tables.used()

    def suspect(self, why: str) -> None:
        """Have the switch's tables read back and repaired."""
        self._why_suspected = why
        self._suspected.set()

    def _entered(self, phase: Phase, before: Phase) -> None:
        """Do what a new state of the switch asks for at once."""
        self._was_ready = self._was_ready or phase is Phase.READY
        if phase.forwards != before.forwards:
            self._ports.use(phase.forwards)
        if not phase.in_session or phase is Phase.DOUBT:
            self.service.let_go()

    def _has_router(self, port: PortConfig) -> bool:
        """Whether a router of ours is at the other end of a port."""
        return self._neighbours[port.number] is not None and not port.outside

    def _carrier_changed(self, number: int, up: bool) -> None:
        if self._echo is not None:
            self._echo.carrier_changed(number, up)
        self._ports.carrier_changed(number, up)

    def _silence_changed(self, number: int, silent: bool) -> None:
        """Lead around a neighbour that forwards nothing, before BGP hears of it; or use it again."""
        self._kernel.set_silent(number, silent)
        self._ports.silence_changed(number, silent)

    async def _keep_session(self) -> None:
        """Have a session with the switch, again and again."""
        backoff = Backoff(_RECONNECT_S, _LONGEST_DOUBT_S)
        while True:
            why = ""
            try:
                await self._session()
            except (SwitchError, ProblemError) as error:
                why = str(error)
            except Exception as error:
                logger.exception("the session with the switch failed")
                why = repr(error)
                await asyncio.sleep(backoff.failed())
            if self._control.note(Event.SESSION_ENDED, why) is Phase.LOST:
                if not await listens(self._config.p4.address):
                    self._control.note(Event.DIED)
                elif time.monotonic() - self._control.since > self._config.grace_s:
                    self._control.note(Event.GRACE_ENDED)
                if self._control.phase is Phase.DEAD:
                    await self._go_dark()
                    await self.service.detach()
            await asyncio.sleep(_RECONNECT_S)

    def _p4_switch(self) -> Switch:
        p4 = self._config.p4
        credentials = None if p4.private else self._credentials
        target = self._target
        return Switch(p4.address, p4.device_id, credentials, target.schema, takes_back=target.takes_back)

    async def _session(self) -> None:
        """Control the switch for as long as it answers. Raises `SwitchError` in the end."""
        switch = self._p4_switch()
        backoff = Backoff(_DOUBT_S, _LONGEST_DOUBT_S)
        async with switch.session() as lost:
            if await switch.ensure_pipeline():
                logger.info("pushed the pipeline")
                self._cold = True
                await self.service.detach()
            self._control.note(Event.CONNECTED)
            while True:
                adopted = False
                try:
                    async with self._adopted(switch, lost) as mirroring:
                        adopted = True
                        self._control.note(Event.ADOPTED)
                        began = time.monotonic()
                        await _until(self._suspected, lost, mirroring)
                        if time.monotonic() - began > _CALM_S:
                            backoff.succeeded()
                except (ProblemError, SwitchError) as error:
                    # A call that failed says little; the stream says whether there is a session.
                    await asyncio.wait({lost}, timeout=_NOTICE_S)
                    if lost.done() or (isinstance(error, SwitchError) and not adopted):
                        raise
                    self._why_suspected = str(error)
                self._control.note(Event.SUSPECTED, self._why_suspected)
                await asyncio.wait({lost}, timeout=backoff.failed())

    @asynccontextmanager
    async def _adopted(self, switch: Switch, lost: asyncio.Task[None]) -> AsyncIterator[asyncio.Task[None]]:
        """Bring the switch's tables in line, and keep them so; yields the task that mirrors routes."""
        self._suspected.clear()
        await self.service.quiet()
        await switch.configure(admission(self._config, answers=self._target.answers))
        rows, self._foreign = await switch.read_rows()
        underlay = [row for row in rows if not isinstance(row, VIP_ROWS)]
        masked = self._target.masks_hashes
        routes = RouteTables(self._target.sizes_of(UNDERLAY_ROWS), underlay, self._place, masked=masked)
        self._fib = FibMirror(self._kernel, routes, switch)
        mirroring = asyncio.create_task(self._fib.run(), name="FIB mirror")
        try:
            await self._remove_foreign(switch)
            await _until(self._fib.settled, lost, mirroring)
            held = [row for row in rows if isinstance(row, VIP_ROWS)]
            vips = VipTables(self._target.sizes_of(VIP_ROWS), held, masked=masked)
            await self.service.attach(switch, vips, cold=self._cold)
            if self._cold:
                self._cold = False
                self._hold()
            logger.info("controls the switch: found %d rows, wrote %d", len(rows), switch.writes)
            self._switch = switch
            yield mirroring
        finally:
            mirroring.cancel()
            await asyncio.gather(mirroring, return_exceptions=True)
            self._fib = None

    async def _remove_foreign(self, switch: Switch) -> None:
        """Delete entries that no agent writes. A refusal is said, and costs nothing else."""
        refused = await switch.remove(self._foreign)
        self._stray = f"entries of others cannot be removed: {refused[0]}" if refused else ""
        if self._foreign:
            logger.warning("removed %d of %d entries of others", *_part(self._foreign, refused))
        if not refused:
            self._foreign = []

    async def _clean_up(self) -> None:
        """Try again, less and less often, to remove what the switch refused to."""
        backoff = Backoff(_CLEAN_UP_S, _LONGEST_CLEAN_UP_S)
        while True:
            if self._control.phase is Phase.READY and (self._foreign or self.service.stray):
                with suppress(SwitchError, ProblemError):
                    await self._remove_foreign(self._switch)
                    await self.service.clean_up()
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()
                await asyncio.sleep(_CLEAN_UP_S)

    def _hold(self) -> None:
        """Announce what the journal has after a while, where no controller confirms it before."""

        async def admit() -> None:
            await asyncio.sleep(self._config.hold_s)
            await self.service.admit()

        self._tasks.start(_ADMISSION, admit)

    async def _report(self, stack: AsyncExitStack) -> None:
        """Report the ports from now on, if there is somebody to report to."""
        config = self._config
        if not config.report_urls:
            return
        reporter = await reporter_of(
            config.report_urls, PORT_REPORTS, self._credentials, config.report_interval_s, stack
        )
        self._kernel.on_port_change = reporter.changed

        def report() -> PortReport:
            neighbours = tuple(
                NeighbourPort(neighbour=neighbour.name, alive=self._kernel.alive(number))
                for number, neighbour in self._neighbours.items()
                if neighbour is not None
            )
            return PortReport(switch=config.name, ports=tuple(self.host_ports()), neighbours=neighbours)

        self._tasks.start("reporting ports", lambda: reporter.run(report))

    async def _go_dark(self) -> None:
        """Take every link down for a moment: the switch is dead, and its neighbours should know."""
        logger.warning("the P4 switch is dead: taking the links down")
        for port in self._config.ports:
            netdev.set_up(port.interface, up=False)
        await asyncio.sleep(_DARK_S)
        for port in self._config.ports:
            netdev.set_up(port.interface, up=True)

    async def _written(self) -> None:
        """Wait until the switch has been told what the kernel has said by now."""
        if self._fib is not None:
            await self._fib.written()

    def _application(self) -> FastAPI:
        title = f"switch agent of {self._config.name}"
        app = create_app(
            title,
            access=self._config.access(),
            credentials=self._credentials,
            health=self.health,
            terms=self._terms,
        )
        app.include_router(router(self.service))
        app.include_router(trace.router(self._traces))
        app.include_router(flow_records(self._flows))
        app.include_router(installed.router(self.service.installed))
        app.include_router(mux_metrics(self.service))

        @app.get("/v1/cpu", tags=["status"])
        async def get_cpu() -> list[Punted]:
            """Say what each port has sent towards the switch's CPU, and what of it was dropped."""
            return self._hostifs.punted()

        return app


async def listens(address: str) -> bool:
    """Return whether a server, such as the P4 switch, takes connections at an address and keeps them.

    The address is `host:port`, or `unix:PATH`.

    While a process ends, its listening socket may outlive its connections.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_S):
            if host == "unix":
                reader, writer = await asyncio.open_unix_connection(port)
            else:
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
    asyncio.run(SwitchAgent(config).run())


def detach(config: SwitchConfig) -> None:
    """End the BIRD and remove the host interfaces that an agent has left."""
    asyncio.run(Bird(config.routing(), config.state_dir).stop())
    speakers = {neighbor.interface for neighbor in config.bird.neighbors}
    HostInterfaces(config.ports, speakers, target_of(config.p4).cpu_interface).close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the switch agent; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.switch_agent", description="The agent of a DUET switch.")
    return agent.main(parser, argv, SwitchConfig, _run, detach)


def _announced(table: int) -> list[IPv4Address]:
    """Return the addresses that have a route in a table of announcements."""
    try:
        with closing(Dump()) as dump:
            routes = [one for one in dump.routes(table) if isinstance(one, Route) and one.table == table]
    except FileNotFoundError:
        return []  # There is no table before there is a route in it.
    return [route.prefix.network_address for route in routes]


def _part(all_: Sized, refused: Sized) -> tuple[int, int]:
    return len(all_) - len(refused), len(all_)


async def _until(event: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for an event; where a task ends before, raise what it raises."""
    waiting = asyncio.create_task(event.wait())
    try:
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()
