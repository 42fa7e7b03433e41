"""The path of every agent that says who had it hold something, and when."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from fastapi import APIRouter

from duet_p4.api.installed import Installed
from duet_p4.rest.app import problem_responses


def router(installed: Callable[[IPv4Address], Installed]) -> APIRouter:
    """Return the path, answered by `installed`, which raises UnknownError."""
    api = APIRouter(prefix="/v1/installed", tags=["status"])

    @api.get("/{address}", responses=problem_responses(404))
    async def get_installed(address: IPv4Address) -> Installed:
        """Say who has put a VIP or TIP here as it is now, and when."""
        return installed(address)

    return api
