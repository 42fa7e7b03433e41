"""What a mux adds to a round trip: the time in it, and the way to the mux and back.

What an SMux adds at a load is interpolated between the points that the authors measured. A VIP's packets also
travel to their mux: every link beyond the direct way costs `link_us`. Nothing here is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine import SMUX, Assignment
from controller.engine.paths import Paths
from controller.engine.topology import Floats, Ints
from controller.simulation.muxcount import PACKETS_PER_S

Longs = NDArray[np.int64]

RTT_US = 381.0
"""Median round trip without a mux (stated)."""

HMUX_US = 1.0
"""What an HMux adds: a switch's forwarding time ("microseconds", stated)."""


SMUX_POINTS = ((100_000.0, 200.0), (300_000.0, 230.0), (450_000.0, 14_000.0))
"""Packets/s offered to an SMux, and what it adds, us: slide 5 of the authors' talk. Its CPU is full at
the second.
"""


def smux_us(load: float | Floats) -> Floats:
    """Return what an SMux adds at a load, 1 being 300 kpps: between the talk's points in a straight line.

    Below the first point and above the last, where nothing was measured, the value of that point.
    """
    if (np.asarray(load) < 0).any():
        raise ValueError(f"an SMux has load {np.min(load):g}")
    rates, added = zip(*SMUX_POINTS, strict=True)
    return np.asarray(np.interp(np.asarray(load) * PACKETS_PER_S, rates, added), np.float64)


@dataclass(frozen=True)
class Journey:
    """Links on the way, averaged over sources and DIPs, per VIP: direct, and by its mux's switch."""

    direct: Floats
    by_mux: Floats


def journeys(assignment: Assignment) -> Journey:
    """Return the links between server and server (or Core and server) for every VIP.

    For VIPs on SMuxes, `by_mux` is the direct way.
    """
    topology, demands = assignment.topology, assignment.demands
    hops = Paths(topology).hops.astype(np.float64)
    vips = demands.vip_count
    owner = np.repeat(np.arange(vips), np.diff(demands.source_start))
    row = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    dip_vip = demands.owners()[row].astype(np.int64)
    direct = _direct(assignment, hops, owner, dip_vip)
    switch = assignment.switch
    on_hmux = switch[:vips] != SMUX
    to_mux = np.bincount(
        owner, weights=demands.source_share * hops[switch[owner], demands.source_switch], minlength=vips
    )
    from_core = hops[:, topology.entries].mean(axis=1)
    to_mux += demands.internet * from_core[switch[:vips]]
    from_mux = np.bincount(
        dip_vip, weights=demands.dip_share * hops[demands.dip_switch, switch[row]], minlength=vips
    )
    tips = np.arange(vips, demands.row_count)
    if tips.size:
        owners = demands.owners()[tips]
        between = hops[switch[tips], switch[owners]] * demands.row_share()[tips]
        from_mux += np.bincount(owners, weights=between, minlength=vips)
    return Journey(direct=direct, by_mux=np.where(on_hmux, to_mux + from_mux, direct))


def link_us(assignment: Assignment, journey: Journey) -> float:
    """Return what one link costs: the round trip without a mux, spread over its links, servers' included.

    Derived, not fitted: it knows nothing of what the paper measured with muxes.
    """
    median = weighted_quantile(journey.direct, assignment.demands.traffic, 0.5)
    return RTT_US / (2 * (median + 2))


def duet_us(assignment: Assignment, journey: Journey, mux_us: float, per_link: float) -> Floats:
    """Return the round trip of every VIP under DUET, whose SMuxes add `mux_us`."""
    on_hmux = assignment.on_hmux
    detour = np.maximum(journey.by_mux - journey.direct, 0.0) * per_link
    smux_detour = smux_links(assignment, assignment.topology.switch_count) * per_link
    return RTT_US + np.where(on_hmux, detour + HMUX_US, mux_us + smux_detour)


def ananta_us(assignment: Assignment, count: int, loads: Floats, weights: Floats, per_link: float) -> float:
    """Return the median round trip when `count` SMuxes carry everything; `weights[i]` of it at load
    `loads[i]`.
    """
    median = weighted_quantile(smux_us(loads), weights, 0.5)
    return RTT_US + smux_links(assignment, count) * per_link + median


def smux_links(assignment: Assignment, count: int) -> int:
    """Return the links that the way by the nearest SMux adds at the median.

    Anycast finds an SMux under the source's own ToR, else in its container, else anywhere: two links to
    the server and back, and two or four more through the fabric.
    """
    shape = assignment.topology.shape
    if shape is None or count >= shape.tor_count / 2:
        return 2
    return 4 if count >= shape.containers / 2 else 6


def weighted_quantile(values: Floats, weights: Floats, quantile: float) -> float:
    """Return the value below which that share of the weight lies."""
    order: Ints = np.argsort(values, kind="stable").astype(np.int32)
    sums = np.cumsum(weights[order])
    if not sums.size or sums[-1] <= 0:
        raise ValueError("no traffic to take a quantile of")
    at = min(int(np.searchsorted(sums, quantile * sums[-1])), len(order) - 1)
    return float(values[order[at]])


def _direct(assignment: Assignment, hops: Floats, owner: Longs, dip_vip: Longs) -> Floats:
    """Average hops from sources to DIPs, per VIP, with container shares: all else is equally far."""
    topology, demands = assignment.topology, assignment.demands
    shape = topology.shape
    if shape is None:
        raise ValueError("journeys need a FatTree")
    vips, boxes, tors = demands.vip_count, shape.containers, shape.tor_count

    def shares(places: int, per: int, who: Longs, switch: Ints, share: Floats) -> tuple[Longs, Floats]:
        keys, at = np.unique(who * places + switch // per, return_inverse=True)
        return keys, np.bincount(at, weights=share).astype(np.float64)

    def meeting(places: int, per: int) -> Floats:
        sent, out = shares(places, per, owner, demands.source_switch, demands.source_share)
        got, into = shares(places, per, dip_vip, demands.dip_switch, demands.dip_share)
        both, i, j = np.intersect1d(sent, got, assume_unique=True, return_indices=True)
        return np.bincount(both // places, weights=out[i] * into[j], minlength=vips).astype(np.float64)

    same_tor, same_box = meeting(tors, 1), meeting(boxes, shape.tors)
    inside = 1 - demands.internet
    far = hops[0, shape.tors] if shape.containers > 1 else 0.0
    near = hops[0, 1] if shape.tors > 1 else 0.0
    from_core = hops[topology.entries[0], 0]
    return np.asarray(
        (same_box - same_tor) * near + (inside - same_box) * far + demands.internet * from_core, np.float64
    )


__all__ = [
    "HMUX_US",
    "RTT_US",
    "SMUX_POINTS",
    "Journey",
    "ananta_us",
    "duet_us",
    "journeys",
    "link_us",
    "smux_links",
    "smux_us",
    "weighted_quantile",
]
