"""The host agent: one process per server that holds its data path, checks its DIPs, and answers REST.

The eBPF programs and what they learned of flows are pinned: they serve on while no agent lives, however it
ended, and the next one takes them over. VIPs are journaled, so it fills its tables before it does.
`--detach` removes the data path.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from fastapi import FastAPI

from duet_p4 import agent, netdev
from duet_p4.api.service import Health, State
from duet_p4.bpf import Pins, detach_tc, pins
from duet_p4.flows.service import FlowRecords
from duet_p4.host_agent.config import HostConfig
from duet_p4.host_agent.datapath import LAYOUT, HostDatapath
from duet_p4.host_agent.service import HostService
from duet_p4.identity import Credentials
from duet_p4.reporter import HEALTH_REPORTS, Reporter, reporter_of
from duet_p4.rest.app import create_app
from duet_p4.rest.routers import installed, trace
from duet_p4.rest.routers.flows import router as flow_records
from duet_p4.rest.routers.host import router
from duet_p4.rest.routers.metrics import host_router as host_metrics
from duet_p4.rest.server import serve
from duet_p4.signals import told_to_end
from duet_p4.telemetry import exporting
from duet_p4.term import Terms
from duet_p4.tracing.installers import MUX_TABLES, Installers
from duet_p4.tracing.instrumented import follower
from duet_p4.tracing.traces import Traces

logger = logging.getLogger(__name__)

_EXPIRE_S = 5.0


def application(
    config: HostConfig,
    service: HostService,
    terms: Terms,
    credentials: Credentials | None,
    traces: Traces,
    flows: FlowRecords,
) -> FastAPI:
    """Return the REST interface."""

    def health() -> Health:
        problem = service.problem
        return Health(state=State.DEGRADED if problem else State.READY, detail=problem)

    app = create_app(
        f"Host agent {config.name}",
        access=config.access(),
        credentials=credentials,
        health=health,
        terms=terms,
    )
    app.include_router(router(service))
    app.include_router(host_metrics(service))
    app.include_router(trace.router(traces))
    app.include_router(flow_records(flows))
    app.include_router(installed.router(service.installed))
    return app


async def expire(service: HostService) -> None:
    """Forget idle outgoing connections, now and then, until cancelled."""
    while True:
        await asyncio.sleep(_EXPIRE_S)
        await service.expire()


async def run(config: HostConfig) -> None:
    """Be a host agent until told to end."""
    ended = told_to_end()
    credentials = config.identify()
    datapath = HostDatapath(
        flows=config.flows,
        snat_connections=config.snat_connections,
        snat_exclude=config.snat_exclude,
        first_ephemeral_port=netdev.first_ephemeral_port(),
        pins=Pins(config.pin_folder(), LAYOUT),
        muxes=config.muxes,
        flow_key=config.flow_key,
        flow_sampling=config.flow_records.sampling,
    )
    async with AsyncExitStack() as stack:
        stack.callback(datapath.close)
        await stack.enter_async_context(exporting(config.telemetry, "host agent", config.name))
        reporter = await _reporter(config, credentials, stack)
        terms = Terms(config.state_dir / "term")
        service = HostService(config, datapath, terms, reporter.changed if reporter else lambda: None)
        stack.push_async_callback(service.close)
        for interface in config.interfaces:
            # Strict reverse-path filtering would drop clients that are routed another way.
            netdev.set_ipv4_option(interface, "rp_filter", 2)
        datapath.attach([netdev.index(interface) for interface in config.interfaces], config.xdp_mode)
        traces = Traces(
            config.name, "server", follower(datapath.instrument), Installers(service.installed_by, MUX_TABLES)
        )
        stack.push_async_callback(traces.stop)
        flows = FlowRecords(config.name, "server", config.flow_records, datapath.samples.poll)
        app = application(config, service, terms, credentials, traces, flows)
        url = await stack.enter_async_context(serve(app, str(config.listen), config.port, credentials))
        logger.info("serves %s, on %s", url, ", ".join(config.interfaces))
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(expire(service), name="expire"),
                tasks.create_task(flows.run(), name="flows"),
            ]
            if reporter:
                running.append(tasks.create_task(reporter.run(service.health), name="report"))
            await ended.wait()
            for task in running:
                task.cancel()


async def _reporter(
    config: HostConfig, credentials: Credentials | None, stack: AsyncExitStack
) -> Reporter | None:
    if not config.report_urls:
        return None
    return await reporter_of(config.report_urls, HEALTH_REPORTS, credentials, config.report_interval_s, stack)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the host agent; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.host_agent", description="The host agent of a server.")
    return agent.main(parser, argv, HostConfig, lambda config: asyncio.run(run(config)), detach)


def detach(config: HostConfig) -> None:
    """Remove the data path that an agent has left: packets of VIPs are not served any more."""
    pins.remove(config.pin_folder())
    for interface in config.interfaces:
        detach_tc(netdev.index(interface), "egress")
