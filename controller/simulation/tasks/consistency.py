"""A consistency scheme under churn."""

from __future__ import annotations

from dataclasses import dataclass

from controller.simulation import consistency
from controller.simulation.consistency import Churn, Kept
from controller.simulation.scale import Scale
from controller.simulation.tasks.base import Task


@dataclass(frozen=True)
class Keep(Task[Kept]):
    """Run one scheme; the churn is the same for all schemes of a seed."""

    kind = "consistency"
    result = Kept
    cost = 0.1
    scheme: str

    def compute(self, scale: Scale) -> Kept:
        """Do the work."""
        return consistency.compare(Churn(), self.scheme, self.seed)


__all__ = ["Keep"]
