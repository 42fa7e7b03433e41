"""Rubik beside DUET on the same trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.engine import assign
from controller.simulation import rubik
from controller.simulation.provisioning import Failures
from controller.simulation.scale import Scale
from controller.simulation.settings import Setting, with_settings
from controller.simulation.tasks.base import Task
from controller.simulation.tasks.strategies import strategy

MODES = ("duet", "locality", "rubik")
"""DUET; Rubik's local instances on DIPs as they stand; and with DIPs moved near the sources."""

LINKS = "links"
"""A way to place beside the strategies: by the busiest link alone, as Rubik's program does."""


@dataclass(frozen=True)
class Carried:
    """`bandwidth`: bit/s on all links together over the VIP traffic; `local`: share that loads none."""

    bandwidth: float
    max_link: float
    local: float
    hmux_share: float
    routes: int


@dataclass(frozen=True)
class Carry(Task[Carried]):
    """Find what load-balanced traffic takes of the network; `placing` places what is not local."""

    kind = "rubik"
    result = Carried
    cost = 3.0
    rate: float
    mode: str
    placing: str = "duet"
    settings: tuple[Setting, ...] = ()

    def compute(self, scale: Scale) -> Carried:
        """Do the work."""
        scale = with_settings(scale, self.settings)
        topology = scale.topology()
        trace = scale.trace(topology, self.seed)
        demands = trace.steady(scale.bps(self.rate))
        total = demands.total
        left, network, local = demands, topology, 0.0
        if self.mode != "duet":
            housed = rubik.rehoused(topology, trace, demands) if self.mode == "rubik" else demands
            localized = rubik.localize(topology, housed)
            left, network = localized.demands, localized.topology
            local = float((localized.local * demands.traffic).sum()) / total
        assignment = (
            rubik.place(network, left)
            if self.placing == LINKS
            else assign(network, left, strategy(self.placing, self.seed))
        )
        # SMuxes stand on every second ToR, as many as a tenth of the traffic would need at 10 Tbps.
        used = Failures(assignment).link_utilization(np.zeros(0, np.int32), scale.shape.tor_count // 2)
        return Carried(
            bandwidth=float((used * topology.capacity).sum()) / total,
            max_link=float(used.max()) + scale.background,
            local=local,
            hmux_share=(assignment.hmux_traffic + local * total) / total,
            routes=assignment.routes,
        )


__all__ = ["LINKS", "MODES", "Carried", "Carry"]
