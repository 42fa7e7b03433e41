"""The SMux agent: one process that holds the data path, its BIRD, and the REST interface.

Data path and BIRD outlive it: the XDP program and its connections are pinned, BIRD goes on to announce,
and the next agent takes both over, so its restart moves no flow. What ends them is the end of the node,
or `--detach`, which withdraws first. The Scapy data path is this process; there BIRD dies with it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from duet_p4 import agent, durable, netdev
from duet_p4.api.mux import PortStatus, SessionStatus
from duet_p4.api.problems import UnavailableError
from duet_p4.api.service import Health, State
from duet_p4.backoff import Backoff
from duet_p4.bird import status
from duet_p4.bird.config import BirdConfig
from duet_p4.bird.daemon import Bird, BirdError
from duet_p4.bpf import Pins, pins
from duet_p4.flows.cache import Sample
from duet_p4.flows.service import FlowConfig, FlowRecords
from duet_p4.identity import Credentials
from duet_p4.reporter import HEALTH_REPORTS, Reporter, reporter_of
from duet_p4.rest.app import create_app
from duet_p4.rest.routers import draining, installed, trace
from duet_p4.rest.routers.flows import router as flow_records
from duet_p4.rest.routers.metrics import mux_router as mux_metrics
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from duet_p4.signals import told_to_end
from duet_p4.smux.config import SmuxConfig
from duet_p4.smux.datapath import EXITS, Datapath, Sizes
from duet_p4.smux.prober import Prober, Tunnels
from duet_p4.smux.service import SmuxService
from duet_p4.smux.xdp import LAYOUT, XdpDatapath
from duet_p4.supervision import Tasks
from duet_p4.telemetry import exporting
from duet_p4.term import Terms
from duet_p4.tracing.installers import MUX_TABLES, Installers
from duet_p4.tracing.instrumented import Instrumented, follower
from duet_p4.tracing.traces import Traces
from duet_p4.traffic import Exit, describe

logger = logging.getLogger(__name__)

_WITHDRAW_GRACE_S = 0.1


class Surroundings:
    """The SMux's uplinks and BGP sessions."""

    def __init__(self, uplinks: Sequence[str], bird: Bird, datapath: Datapath) -> None:
        self._uplinks = uplinks
        self._bird = bird
        self._datapath = datapath

    def ports(self) -> list[PortStatus]:
        """Return the uplinks, numbered from 1."""
        bytes_of = netdev.traffic()
        found = []
        for number, name in enumerate(self._uplinks, start=1):
            received, sent = bytes_of.get(name, (0, 0))
            up = netdev.is_up(name)
            found.append(
                PortStatus(number=number, name=name, up=up, received_bytes=received, sent_bytes=sent)
            )
        return found

    async def sessions(self) -> list[SessionStatus]:
        """Return the BGP sessions; none while BIRD does not answer."""
        return await status.sessions(self._bird)

    def draining(self) -> bool:
        """Return whether neighbours are asked to prefer any other SMux."""
        return self._bird.config.draining

    def trouble(self) -> str:
        """Return what is wrong, or nothing."""
        bare = [name for name in self._uplinks if not self._datapath.forwards(name)]
        if bare:
            return f"the data path is not on {', '.join(bare)} any more: packets to VIPs get lost there"
        if self._bird.pid is None or self._bird.problem:
            return f"BIRD does not run as it should: {self._bird.problem or 'it is being started'}"
        return ""


@contextmanager
def forwarding(config: SmuxConfig) -> Iterator[tuple[Datapath, Callable[[], None]]]:
    """Yield the configured data path, and what attaches it to the uplinks once it has been filled.

    Until then one that an earlier agent has left forwards on.
    """
    mtu = min(map(netdev.mtu, config.uplinks))
    timeouts, sizes = config.timeouts.timeouts(), config.tables.sizes()
    macs = [netdev.mac(uplink) for uplink in config.uplinks]
    for uplink in config.uplinks:
        # What the data path leaves to the kernel is for this node, never for another.
        netdev.set_ipv4_option(uplink, "forwarding", 0)
    indexes = [netdev.index(uplink) for uplink in config.uplinks]
    with ExitStack() as stack:
        if config.datapath == "xdp":
            xdp = XdpDatapath(
                config.address,
                config.announced,
                uplink_mtu=mtu,
                timeouts=timeouts,
                sizes=sizes,
                macs=macs,
                pins=Pins(config.pin_folder(), LAYOUT),
                fragment_mux=config.fragment_mux,
                muxes=config.muxes,
                flow_key=config.flow_key,
                flow_sampling=config.flow_records.sampling,
            )
            stack.callback(xdp.close)
            yield xdp, lambda: xdp.attach(indexes, config.xdp_mode)
            return

        from duet_p4.smux.raw_port import RawPort
        from duet_p4.smux.scapy_datapath import ScapyDatapath

        scapy = ScapyDatapath(
            config.address,
            config.announced,
            uplink_mtu=mtu,
            timeouts=timeouts,
            sizes=sizes,
            macs=macs,
            fragment_mux=config.fragment_mux,
            muxes=config.muxes,
            flow_key=config.flow_key,
        )

        def attach() -> None:
            pins.remove(config.pin_folder())
            # An SMux without VIPs passes everything to the kernel; here it keeps NAPI on, without which a
            # switch cannot redirect into a veth.
            passing = XdpDatapath(config.address, (), sizes=Sizes(1, 1, 1, 64, 1))
            stack.callback(passing.close)
            passing.attach(indexes, config.xdp_mode)
            for uplink in config.uplinks:
                # Merged packets would look too big.
                netdev.set_gro(uplink, on=False)
                stack.callback(RawPort(uplink, scapy.process).close)

        yield scapy, attach


def application(
    config: SmuxConfig,
    service: SmuxService,
    datapath: Datapath,
    terms: Terms,
    credentials: Credentials | None,
    traces: Traces,
    flows: FlowRecords,
    bird: Bird,
) -> FastAPI:
    """Return the REST interface."""

    def health() -> Health:
        problem = service.problem
        state = State.DEGRADED if problem else State.READY
        return Health(state=state, detail=problem, processes=bird.processes())

    app = create_app(
        f"SMux {config.name}", access=config.access(), credentials=credentials, health=health, terms=terms
    )
    app.include_router(router(service))
    app.include_router(mux_metrics(service))
    app.include_router(trace.router(traces))
    app.include_router(flow_records(flows))
    app.include_router(installed.router(service.installed))

    @app.get("/v1/exits", tags=["status"])
    async def get_exits() -> tuple[Exit, ...]:
        """Say how packets left the data path, one entry per way there is."""
        return describe(datapath.exits(), EXITS)

    return app


async def run(config: SmuxConfig) -> None:
    """Be an SMux until told to end."""
    ended = told_to_end()
    credentials = config.identify()
    alone = config.datapath == "scapy"
    bird = Bird(_bird_config(config), config.state_dir, die_with_parent=alone)
    if not bird.runs():
        bird.config = _bird_config(config, admitted=False)
    terms = Terms(config.state_dir / "term")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(exporting(config.telemetry, "SMux agent", config.name))
        datapath, attach = stack.enter_context(forwarding(config))
        probing = await _probing(config, credentials, stack)
        service = SmuxService(
            config.name,
            config.datapath,
            datapath,
            config.announced,
            config.state_dir,
            Surroundings(config.uplinks, bird, datapath),
            terms,
            probing.prober if probing else None,
        )
        attach()
        traces = Traces(
            config.name,
            "smux",
            follower(lambda: _instrument(datapath)),
            Installers(service.installed_by, MUX_TABLES),
        )
        stack.push_async_callback(traces.stop)
        flows = FlowRecords(config.name, "smux", _flow_config(config), lambda: _samples(datapath))
        app = application(config, service, datapath, terms, credentials, traces, flows, bird)

        app.include_router(
            draining.router(_drain_file(config).exists, lambda wanted: _drain(config, bird, wanted))
        )
        tasks = Tasks()
        tasks.start("running BIRD", bird.supervise)
        tasks.start("recording flows", flows.run)
        tasks.start("admission", lambda: _admit(config, service, bird))
        if probing:
            tasks.start("reporting health", lambda: probing.reporter.run(probing.prober.report))
        try:
            async with serve(app, str(config.listen), config.port, credentials) as url:
                logger.info("serves %s, %s data path on %s", url, config.datapath, ", ".join(config.uplinks))
                await ended.wait()
        finally:
            await tasks.stop()
            if alone:
                await _withdraw(bird)


def _flow_config(config: SmuxConfig) -> FlowConfig:
    """The Scapy data path, which is there to be read, records no flows."""
    return config.flow_records if config.datapath == "xdp" else FlowConfig()


def _samples(datapath: Datapath) -> Sequence[Sample]:
    assert isinstance(datapath, XdpDatapath)
    return datapath.samples.poll()


def _instrument(datapath: Datapath) -> Instrumented:
    if not isinstance(datapath, XdpDatapath):
        raise UnavailableError("the Scapy data path does not trace: only XDP does")
    return datapath.instrument()


@dataclass(frozen=True)
class Probing:
    """The checks of DIPs through the tunnel, and how their verdicts get to monitoring."""

    prober: Prober
    reporter: Reporter


async def _probing(
    config: SmuxConfig, credentials: Credentials | None, stack: AsyncExitStack
) -> Probing | None:
    if not config.report_urls:
        return None
    reporter = await reporter_of(
        config.report_urls, HEALTH_REPORTS, credentials, config.report_interval_s, stack
    )
    gateways = {neighbor.interface: neighbor.address for neighbor in config.bird.neighbors}
    tunnels = stack.enter_context(Tunnels(config.address, gateways))
    prober = Prober(tunnels, config.name, reporter.changed)
    stack.push_async_callback(prober.close)
    return Probing(prober, reporter)


async def _admit(config: SmuxConfig, service: SmuxService, bird: Bird) -> None:
    """Announce the covering prefixes once what the SMux holds is confirmed, or nobody did for long enough.

    Sooner, packets would come for VIPs that it does not hold yet, or does not hold as they are now.
    """
    wanted = _bird_config(config)
    if bird.config == wanted:
        logger.info("goes on announcing, as its predecessor did")
        return
    confirmed = asyncio.Event()
    service.on_confirmation(confirmed.set)
    if service.synced:
        confirmed.set()
    try:
        async with asyncio.timeout(config.hold_s):
            await confirmed.wait()
    except TimeoutError:
        logger.warning("nobody has confirmed what is held in %g s: announcing the journal's", config.hold_s)
    backoff = Backoff(0.1, 2.0)
    while True:
        try:
            await bird.reconfigure(_bird_config(config))
            return
        except BirdError as error:
            logger.warning("%s: trying again", error)
            await asyncio.sleep(backoff.failed())


async def _withdraw(bird: Bird) -> None:
    await bird.stop()
    # What is still on its way to a mux that has withdrawn finds the data path.
    await asyncio.sleep(_WITHDRAW_GRACE_S)


def detach(config: SmuxConfig) -> None:
    """Withdraw what an agent has left announced, then remove the data path that it has left."""
    asyncio.run(_withdraw(Bird(_bird_config(config), config.state_dir)))
    pins.remove(config.pin_folder())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the SMux agent; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.smux", description="The SMux of a DUET network.")
    parser.add_argument("--datapath", choices=("xdp", "scapy"), help="in place of the configured one")
    return agent.main(parser, argv, SmuxConfig, _run, detach)


def _run(config: SmuxConfig) -> None:
    netdev.set_own_address(config.address)
    asyncio.run(run(config))


def _drain_file(config: SmuxConfig) -> Path:
    """Where it is kept that the SMux is drained."""
    return config.state_dir / "draining"


async def _drain(config: SmuxConfig, bird: Bird, wanted: bool) -> None:
    """Have neighbours prefer any other SMux to this one, or no longer (RFC 8326); it serves on meanwhile."""
    if wanted:
        durable.write(_drain_file(config), b"")
    else:
        _drain_file(config).unlink(missing_ok=True)
    admitted = set(config.announced) <= set(bird.config.originated)
    try:
        await bird.reconfigure(_bird_config(config, admitted=admitted))
    except BirdError as error:
        raise UnavailableError(str(error)) from error


def _bird_config(config: SmuxConfig, *, admitted: bool = True) -> BirdConfig:
    """Return what BIRD is to do; without the prefixes that all SMuxes have before this one is `admitted`.

    Where the data path dies with the agent, so must its routes.
    """
    draining = _drain_file(config).exists()
    originated = [*config.bird.originated, f"{config.address}/32"]
    if admitted:
        originated += [*config.announced, *([f"{config.fragment_mux}/32"] if config.fragment_mux else [])]
    restart = config.bird.restart if config.datapath == "xdp" else None
    changes = {"originated": originated, "draining": draining, "restart": restart}
    return BirdConfig.model_validate(config.bird.model_dump() | changes)
