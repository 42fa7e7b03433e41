"""Link loads under failures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.simulation import muxcount
from controller.simulation.provisioning import FAILED_SWITCHES, Failures
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.settings import Setting, with_settings
from controller.simulation.tasks.base import Task
from controller.simulation.tasks.place import assigned


@dataclass(frozen=True)
class BusyLink:
    """The busiest link of a scenario, and the share of links above 95%."""

    max: float
    link: str
    above_95: float


@dataclass(frozen=True)
class Links:
    """Busiest links: nothing failed, each container, random triples, the three switches with most traffic."""

    normal: BusyLink
    containers: list[BusyLink]
    triples: list[BusyLink]
    busiest_triple: BusyLink


@dataclass(frozen=True)
class LinkLoads(Task[Links]):
    """Find the busiest link under failures."""

    kind = "links"
    result = Links
    cost = 12.0
    rate: float
    strategy: str
    settings: tuple[Setting, ...] = ()

    def compute(self, scale: Scale) -> Links:
        """Do the work."""
        scale = with_settings(scale, self.settings)
        assignment, _, _ = assigned(scale, self.seed, self.rate, self.strategy)
        topology, failures = assignment.topology, Failures(assignment)
        fallback = failures.analyse(scale.samples, self.seed)
        count = muxcount.evenly(fallback.text, SMUX_BPS[0])
        rng = np.random.default_rng(self.seed)

        def busiest(dead: list[int] | tuple[int, ...]) -> BusyLink:
            utilization = failures.link_utilization(np.array(dead, np.int32), count) + scale.background
            link = int(utilization.argmax())
            return BusyLink(
                float(utilization[link]), topology.link_name(link), float((utilization > 0.95).mean())
            )

        boxes = range(int(topology.container.max()) + 1)
        size = min(FAILED_SWITCHES, topology.switch_count)
        return Links(
            normal=busiest([]),
            containers=[busiest(np.flatnonzero(topology.container == k).tolist()) for k in boxes],
            triples=[
                busiest(rng.choice(topology.switch_count, size, replace=False).tolist())
                for _ in range(scale.link_samples)
            ],
            busiest_triple=busiest(fallback.worst_triple),
        )


__all__ = ["BusyLink", "LinkLoads", "Links"]
