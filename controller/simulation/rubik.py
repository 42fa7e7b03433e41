"""Rubik (Gandhi et al., USENIX ATC 2015): keep load-balanced traffic within ToRs.

Two ideas. *Locality*: a ToR that has sources and DIPs of a VIP carries an instance of it for its own
sources and its own DIPs, whose traffic loads no link; what is left, the residual VIP, is placed on one
switch, such that the busiest link is least. *End-point flexibility*: where a VIP's DIPs run is chosen,
too, near its sources, within what racks hold and so that no rack has too much of one service. Each DIP gets
the same share of its VIP's traffic as without.

The paper solves both by an integer program; this is a greedy one, VIPs by decreasing traffic. What it
keeps of DUET's: the SMuxes, the /32 limit, the tables, of which local instances may take `LOCAL_TABLES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.engine import SMUX, Assignment, Demands, Topology, assign
from controller.engine.strategy import FEASIBLE, TIE, Candidates, Rule
from controller.engine.topology import Floats, Ints
from controller.simulation.workload import Trace, columns

LOCAL_TABLES = 0.5
"""Share of each ToR's tunneling table that local instances may take."""

RACK_SHARE = 0.5
"""A rack has at most this share of a VIP's DIPs: the service's failure domains."""

BOUNDLESS = 2**40
"""Entries of a table that limits nothing."""


@dataclass(frozen=True, eq=False)
class Localized:
    """What is left for muxes. `local` is each VIP's share of traffic that stays in its ToRs.

    `demands` are the residual VIPs; `topology` has the tables that local instances leave.
    """

    demands: Demands
    topology: Topology
    local: Floats


def localize(topology: Topology, demands: Demands) -> Localized:
    """Put local instances of VIPs on ToRs that have sources and DIPs of them, the largest gain per entry
    first.
    """
    tors = _tor_count(topology)
    vips = demands.vip_count
    owner = np.repeat(np.arange(vips), np.diff(demands.source_start))
    row = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    dip_owner = demands.owners()[row].astype(np.int64)
    sources, sent = _summed(owner * tors + demands.source_switch, demands.source_share)
    places, got = _summed(dip_owner * tors + demands.dip_switch, demands.dip_share)
    both, i, j = np.intersect1d(sources, places, assume_unique=True, return_indices=True)
    share = np.minimum(sent[i], got[j])
    entries = np.ceil(got[j] * _dip_totals(demands)[both // tors] - 1e-6)
    kept = _within_tables(topology, demands, both, share, entries, tors)
    both, share, entries = both[kept], share[kept], entries[kept]
    local = np.bincount(both // tors, weights=share, minlength=vips)
    left = 1 - local
    # Shares of what is left; a VIP of which nothing is left keeps its old shares and no traffic.
    some = left > 1e-9
    sent[np.searchsorted(sources, both)] -= share
    took = np.zeros(len(places))
    took[np.searchsorted(places, both)] = share
    source_at = np.searchsorted(sources, owner * tors + demands.source_switch)
    dip_at = np.searchsorted(places, dip_owner * tors + demands.dip_switch)
    divide = np.where(some, left, 1.0)
    source_share = np.where(
        some[owner], np.maximum(sent[source_at], 0.0) / divide[owner], demands.source_share
    )
    remaining = np.maximum(1 - took / np.maximum(got, 1e-300), 0.0)[dip_at] * demands.dip_share
    dip_share = np.where(some[dip_owner], remaining / divide[dip_owner], demands.dip_share)
    used = np.bincount(both % tors, weights=entries, minlength=topology.switch_count)
    tables = topology.tables.copy()
    tables[:, 2] -= used.astype(np.int64)
    residual = replace(
        demands,
        traffic=demands.traffic * np.where(some, left, 0.0),
        internet=np.where(some, demands.internet / divide, demands.internet),
        source_share=source_share,
        dip_share=dip_share,
    )
    return Localized(residual, replace(topology, tables=tables), np.where(some, local, 1.0))


def rehoused(topology: Topology, trace: Trace, demands: Demands) -> Demands:
    """Choose the racks of all DIPs anew, VIPs by decreasing traffic, as far as racks have room.

    DIPs go near the sources of their VIP first. Those that serve what no ToR keeps, the Internet's share
    among it, go where least traffic arrives so far, because that minimizes the busiest link of a rack. A
    rack holds at most as many DIPs as the fullest one did before.
    """
    tors = _tor_count(topology)
    vips = demands.vip_count
    row = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    dip_owner = demands.owners()[row].astype(np.int64)
    places, share = _summed(dip_owner * tors + demands.dip_switch, demands.dip_share)
    counts = np.rint(share * trace.dips[places // tors]).astype(np.int64)
    most = int(np.bincount(places % tors, weights=counts, minlength=tors).max())
    racks = _Racks(np.full(tors, most, np.int64), np.zeros(tors))
    chosen: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * vips
    for vip in np.argsort(-demands.traffic, kind="stable").tolist():
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        sources = demands.source_switch[at].astype(np.int64), demands.source_share[at]
        chosen[vip] = racks.take(int(trace.dips[vip]), float(demands.traffic[vip]), *sources)
    found = [np.unique(racks, return_counts=True) for racks in chosen]
    start = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(racks) for racks, _ in found])))
    return columns(
        list(demands.names[:vips]),
        demands.traffic,
        demands.internet,
        (demands.source_start, demands.source_switch, demands.source_share),
        (
            start,
            np.concatenate([racks for racks, _ in found]).astype(np.int32),
            np.concatenate([times for _, times in found]).astype(np.int64),
        ),
        int(topology.tables[:, 2].max()),
    )


@dataclass(frozen=True, eq=False)
class _Racks:
    """Racks as they fill up: how many more DIPs each holds, and what arrives there from elsewhere, bit/s."""

    room: NDArray[np.int64]
    arrives: Floats

    def take(self, dips: int, traffic: float, sources: NDArray[np.int64], sent: Floats) -> NDArray[np.int64]:
        """Choose the racks of one VIP's DIPs, one entry a DIP, and take their room."""
        most = max(1, int(RACK_SHARE * dips)) if dips > 1 else 1
        near = np.minimum(np.floor(sent * dips + 0.5).astype(np.int64), most)
        near = np.minimum(near, np.maximum(self.room[sources], 0))
        # Rounding up may want more DIPs than there are: the sources that send least give way.
        order = np.argsort(-sent, kind="stable")
        near[order] = np.diff(np.minimum(np.cumsum(near[order]), dips), prepend=0)
        self.room[sources] -= near
        self.arrives[sources] += traffic * np.maximum(near / dips - sent, 0.0)
        left = dips - int(near.sum())
        found = [np.repeat(sources, near)]
        while left:  # Where there is room, and, where there is none, where it is exceeded least.
            full = np.where(self.room > 0, 0.0, np.inf if (self.room > 0).any() else -self.room)
            some = min(left, int((full < np.inf).sum()))
            racks = np.argsort(self.arrives + full, kind="stable")[:some]
            self.room[racks] -= 1
            self.arrives[racks] += traffic / dips
            found.append(racks)
            left -= some
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class LightestLinks:
    """Places VIPs where their busiest link stays least, as Rubik's program does: tables only limit.

    DUET's resources are links and tables alike, so that a VIP of many DIPs, which fills most of any table, is
    as well anywhere. `tables` are the switches' sizes; the network that VIPs are placed on by `place` has
    none. What a VIP with TIPs took is not given back should one of its TIPs fit nowhere.
    """

    tables: NDArray[np.int64]
    name: str = "links"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        left = self.tables.copy()

        def rule(candidates: Candidates) -> int:
            need = demands.tables[candidates.row]
            costs = np.where((left >= need).all(axis=1), candidates.costs, np.inf)
            least = float(costs.min())
            if least > FEASIBLE:
                return SMUX
            found = candidates.first(costs <= least + TIE)
            left[found] -= need
            return found

        return rule


def place(topology: Topology, demands: Demands) -> Assignment:
    """Place residual VIPs by `LightestLinks`."""
    boundless = replace(topology, tables=np.full_like(topology.tables, BOUNDLESS))
    return assign(boundless, demands, LightestLinks(topology.tables))


def _within_tables(
    topology: Topology, demands: Demands, both: NDArray[np.int64], share: Floats, entries: Floats, tors: int
) -> NDArray[np.int64]:
    """Return which local instances fit into the ToRs' tables, by decreasing traffic per entry."""
    gain = demands.traffic[both // tors] * share
    order = np.lexsort((-gain / np.maximum(entries, 1), both % tors))
    order = order[gain[order] > 0]
    at = (both % tors)[order]
    taken = np.cumsum(entries[order])
    first = np.searchsorted(at, at)
    before = np.where(first > 0, taken[np.maximum(first - 1, 0)], 0.0)
    kept: NDArray[np.int64] = order[taken - before <= LOCAL_TABLES * topology.tables[at, 2]]
    return kept


def _dip_totals(demands: Demands) -> Floats:
    """Return every VIP's DIPs: its tunneling entries, or those of its TIPs."""
    vips = demands.vip_count
    behind = np.bincount(demands.owners()[vips:], weights=demands.tables[vips:, 2], minlength=vips)
    return np.asarray(np.where(np.diff(demands.tip_start) > 0, behind, demands.tables[:vips, 2]), np.float64)


def _summed(keys: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    found, at = np.unique(keys, return_inverse=True)
    return found, np.bincount(at, weights=values, minlength=len(found)).astype(np.float64)


def _tor_count(topology: Topology) -> int:
    if topology.shape is None:
        raise ValueError("Rubik needs a FatTree; build the topology with Topology.fat_tree")
    return topology.shape.tor_count


__all__ = ["LOCAL_TABLES", "RACK_SHARE", "LightestLinks", "Localized", "localize", "place", "rehoused"]
