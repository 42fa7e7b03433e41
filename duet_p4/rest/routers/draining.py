"""The path of an SMux that says whether neighbours are asked to prefer others to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from duet_p4.api.mux import Draining
from duet_p4.rest.app import problem_responses


def router(draining: Callable[[], bool], drain: Callable[[bool], Awaitable[None]]) -> APIRouter:
    """Return the path; `drain` has neighbours prefer others, or no longer, and raises UnavailableError."""
    api = APIRouter(prefix="/v1/draining", tags=["status"])

    @api.get("")
    async def get_draining() -> Draining:
        """Say whether neighbours are asked to prefer other SMuxes."""
        return Draining(draining=draining())

    @api.put("", status_code=204, responses=problem_responses(503))
    async def set_draining(body: Draining) -> None:
        """Have other SMuxes preferred to this one, for maintenance, or no longer; it serves on."""
        await drain(body.draining)

    return api
