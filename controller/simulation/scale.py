"""What is simulated: the size of the network, its VIPs, the traffic, the seeds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from controller.engine import FatTreeShape, MuxTables, Topology
from controller.engine.topology import HEADROOM, ROUTES
from controller.simulation import tracefile
from controller.simulation.profile import TBPS, Profile
from controller.simulation.workload import Trace, generate

PAPER_TORS = 1600
SMUX_BPS = (3.6e9, 10e9)
"""What one SMux carries: the paper's two cases."""
HOUR = ("profile.intervals", "6")
"""The setting by which a trace lasts an hour, not three, where many ways to follow it are compared."""
RATES_TBPS = (1.25, 2.5, 5.0, 10.0)
"""Total traffic of the paper's data centre; another size gets its share by ToRs."""


@dataclass(frozen=True)
class Scale:
    """A set-up. `rates_tbps` are nominal: what the paper's 1600 ToRs would see."""

    name: str = "paper"
    shape: FatTreeShape = field(default_factory=FatTreeShape)
    profile: Profile = field(default_factory=Profile)
    routes: int = ROUTES
    background: float = 0.0
    """Utilization of every link by other traffic, on top of which VIP traffic may use what the headroom
    leaves.
    """
    delta: float = 0.05
    """By how much a VIP's MRU must fall for sticky to move it."""
    rates_tbps: tuple[float, ...] = RATES_TBPS
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    samples: int = 200
    """Random triples of switches whose fallback is computed."""
    link_samples: int = 10
    """Random triples of switches whose link loads are computed."""
    churn_seeds: int = 30
    """Seeds of the comparison of consistency schemes, which are cheap."""
    assumption_seeds: int = 5
    """Seeds of the table of assumptions, which has many rows."""
    curve_seeds: int = 3
    """Seeds of Rubik's and of shuffle's curves, whose every point is a long run."""
    bound_seeds: int = 5
    """Seeds of the bound, whose programs take longer than all other things at one traffic."""
    trace_file: Path | None = None

    def topology(self) -> Topology:
        """Build the network."""
        if not 0 <= self.background < 1 - HEADROOM:
            raise ValueError(f"background must be within 0..{1 - HEADROOM:g}, not {self.background}")
        return _network(self.shape, self.routes, HEADROOM + self.background)

    def trace(self, topology: Topology, seed: int) -> Trace:
        """Read the trace file, or draw a trace."""
        if self.trace_file is not None:
            return tracefile.read(self.trace_file, topology)
        return _generated(topology.shape or self.shape, int(topology.tables[:, 2].max()), self.profile, seed)

    def bps(self, rate_tbps: float) -> float:
        """Return the total traffic of this data centre at a nominal rate."""
        return rate_tbps * TBPS * self.shape.tor_count / PAPER_TORS


@lru_cache(maxsize=2)
def _network(shape: FatTreeShape, routes: int, headroom: float) -> Topology:
    """Build a network, or find the one just built: tasks share it, and what it has worked out so far."""
    return Topology.fat_tree(shape, routes=routes, headroom=headroom)


@lru_cache(maxsize=2)
def _generated(shape: FatTreeShape, tunnels: int, profile: Profile, seed: int) -> Trace:
    """Draw a trace, or find the one just drawn: tasks of one seed follow each other."""
    return generate(Topology.fat_tree(shape, tables=MuxTables(tunneling=tunnels)), profile, seed)


def paper() -> Scale:
    """Return the paper's data centre (section 8.1)."""
    return Scale()


def small() -> Scale:
    """Return 104 switches and 1,200 VIPs, with the paper's traffic per ToR: runs in seconds."""
    return sized(
        Scale(name="small", seeds=(1, 2, 3), samples=100, link_samples=5, churn_seeds=10),
        FatTreeShape(containers=8, tors=8, aggs=4, cores_per_agg=2),
        vips=1200,
    )


def sized(scale: Scale, shape: FatTreeShape, vips: int) -> Scale:
    """Return a scale of another size; VIPs, routes and traffic keep the paper's proportions."""
    profile = scale.profile.scaled(vips, RATES_TBPS[-1] * TBPS * shape.tor_count / PAPER_TORS)
    routes = max(1, ROUTES * vips // Profile.vips)
    return replace(scale, shape=shape, profile=profile, routes=routes)


__all__ = ["HOUR", "PAPER_TORS", "RATES_TBPS", "SMUX_BPS", "Scale", "paper", "sized", "small"]
