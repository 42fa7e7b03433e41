"""The paths of a device that can trace packets."""

from __future__ import annotations

from fastapi import APIRouter

from duet_p4.api.trace import TraceBegun, Traced, TraceRequest, TraceService
from duet_p4.rest.app import problem_responses


def router(service: TraceService) -> APIRouter:
    """Return the paths of traces, answered by `service`."""
    api = APIRouter(prefix="/v1/traces", tags=["traces"])

    @api.post("", status_code=201, responses=problem_responses(409, 503))
    async def begin_trace(body: TraceRequest) -> TraceBegun:
        """Follow the next packets of a flow; it ends by itself, after so many or so long."""
        return await service.begin(body)

    @api.get("/{trace}", responses=problem_responses(404))
    async def get_trace(trace: str) -> Traced:
        """Return what a trace has seen until now."""
        return service.seen(trace)

    @api.delete("/{trace}", responses=problem_responses(404))
    async def end_trace(trace: str) -> Traced:
        """End a trace, and return what it has seen."""
        return await service.end(trace)

    return api
