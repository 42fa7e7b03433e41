"""`/metrics` of agents, in Prometheus' text format."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from duet_p4 import metrics
from duet_p4.api.host import HostService
from duet_p4.api.mux import MuxService


def mux_router(service: MuxService) -> APIRouter:
    """Return the path of a switch agent or SMux agent."""
    api = APIRouter()

    @api.get("/metrics", tags=["status"], response_class=Response, include_in_schema=False)
    async def get_metrics() -> Response:
        """Return the mux's metrics."""
        status, counters = await asyncio.gather(service.status(), service.counters())
        return Response(metrics.text(metrics.of_mux(status, counters)), media_type=CONTENT_TYPE_LATEST)

    return api


def host_router(service: HostService) -> APIRouter:
    """Return the path of a host agent."""
    api = APIRouter()

    @api.get("/metrics", tags=["status"], response_class=Response, include_in_schema=False)
    async def get_metrics() -> Response:
        """Return the server's metrics."""
        found = metrics.of_host(service.status(), service.meters())
        return Response(metrics.text(found), media_type=CONTENT_TYPE_LATEST)

    return api
