"""What monitoring reads from a host agent."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Protocol

from controller.monitoring.traffic import Count, MeterKey


class HostReader(Protocol):
    """A host agent. Both calls may raise `RestError`."""

    async def dip_health(self) -> dict[IPv4Address, bool]:
        """Return the DIPs that the agent checks, and whether each is fit for traffic."""

    async def counts(self) -> list[tuple[MeterKey, Count]]:
        """Return what the agent has counted since it started."""
