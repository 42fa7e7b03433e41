"""What monitoring reads from a host agent."""

from __future__ import annotations

from typing import Protocol

from controller.monitoring.traffic import Count, MeterKey


class HostReader(Protocol):
    """A host agent."""

    async def counts(self) -> list[tuple[MeterKey, Count]]:
        """Return what the agent has counted since it started. May raise `RestError`."""
