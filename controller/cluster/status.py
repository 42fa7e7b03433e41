"""Which of several controllers leads, for whoever asks any of them."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from controller.cluster.lease import Leader
from duet_p4.model import Model


class ClusterStatus(Model):
    """A controller: whether it leads, and who does. One without others always does."""

    name: str
    leads: bool
    leader: Leader | None
    vips: int | None


def router(status: Callable[[], ClusterStatus]) -> APIRouter:
    """Return the path that tells it."""
    api = APIRouter(prefix="/v1")

    @api.get("/cluster", tags=["cluster"])
    async def get_cluster() -> ClusterStatus:
        """Say whether this controller leads, and who does."""
        return status()

    return api
