"""The ledger of data-centre size: the symmetry of a FatTree, spelled out and compiled.

With K containers of T ToRs and A Aggs, and G Cores per Agg, all shortest paths of a flow towards, or
from, switch s have one form, so the links that a VIP loads are the same for every s, except those
of the container, Agg or Core that s belongs to:

    on a ToR   every source ToR sends 1/A of its traffic to each Agg, its container 1/(A G) to each Core;
               the DIPs' ToRs receive likewise. Only the links of the ToR's own container differ.
    on an Agg  the same within one plane (Agg a of every container): all of a ToR's traffic on its link
               to Agg a. The Internet's traffic from Cores of other planes crosses over at the ToRs of the
               container, 1/T each.
    on a Core  one link per container; crossing over happens at all K T ToRs.

So the cost of all candidates follows from maxima over planes and containers and their runners-up, at
O(links) per VIP, all of it in linear scans, instead of O(switches x links).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from controller.engine.demand import Demands
from controller.engine.ledger import TOUCHED, Ledger
from controller.engine.paths import Hops, Paths, add_flow
from controller.engine.topology import Floats, Ints, Topology


class FatTreeLedger(Ledger):
    """For FatTrees whose VIPs have sources and DIPs on ToRs, and sources on the Internet."""

    def __init__(self, topology: Topology, demands: Demands) -> None:
        """Raise ValueError where the topology is no FatTree, or a source or DIP is on no ToR."""
        super().__init__(topology, demands)
        shape = topology.shape
        if shape is None:
            raise ValueError("the topology is no FatTree; build it with Topology.fat_tree")
        for switches, what in ((demands.source_switch, "a source"), (demands.dip_switch, "a DIP")):
            above = switches[switches >= shape.tor_count]
            if above.size:
                raise ValueError(f"{what} is on {topology.names[above[0]]}, which is no ToR")
        self._tors = shape.tor_count
        self._shape = np.array([shape.containers, shape.tors, shape.aggs, shape.cores_per_agg], np.int64)
        self._usable = np.array([shape.tor_agg_bps, shape.agg_core_bps]) * (1 - topology.headroom)
        self._link_usable = topology.usable
        self._scratch = np.zeros((2, shape.tor_count))
        self._paths: Paths | None = None

    def _link_costs(
        self, sources: Ints, sent: Floats, internet: float, dips: Ints, received: Floats
    ) -> Floats:
        costs = np.empty(self.topology.switch_count)
        inside = self._inside(sources)
        first, amounts = (sources, sent) if inside else (sources[:0], sent[:0])
        candidate_costs(
            self._shape,
            self._usable,
            self.links,
            first,
            amounts,
            internet,
            dips,
            received,
            self._scratch,
            costs,
        )
        if not inside:
            # A TIP behind an Agg or a Core. The two legs share no directed link, so the worse one counts.
            paths = self._all_paths()
            leg_costs(
                paths.start, paths.order, self.topology.target, paths.hops, self.links, self._link_usable,
                int(sources[0]), float(sent[0]), costs,
            )  # fmt: skip
        return costs

    def _add(
        self,
        sources: Ints,
        sent: Floats,
        internet: float,
        dips: Ints,
        received: Floats,
        switch: int,
        sign: float,
    ) -> tuple[int, float]:
        inside = self._inside(sources)
        first, amounts = (sources, sent) if inside else (sources[:0], sent[:0])
        link, busiest = add_placement(
            self._shape,
            self._usable,
            self.links,
            first,
            amounts,
            internet,
            dips,
            received,
            self._scratch,
            switch,
            sign,
        )
        if not inside and switch != sources[0] and sent[0] > 0:
            paths = self._all_paths()
            other, busy = add_leg(
                paths.start, paths.order, self.topology.target, paths.hops, self.links, self._link_usable,
                int(sources[0]), float(sent[0]), switch, sign,
            )  # fmt: skip
            if busy > busiest:
                link, busiest = other, busy
        return int(link), float(busiest)

    def _inside(self, sources: Ints) -> bool:
        return not sources.size or int(sources[0]) < self._tors

    def _all_paths(self) -> Paths:
        if self._paths is None:
            self._paths = Paths(self.topology)
        return self._paths


@njit(cache=True)
def sum_up(
    switches: Ints, amounts: Floats, tors: int, per_tor: Floats, per_container: Floats
) -> tuple[Floats, float]:
    """Add amounts up per ToR, per container of `tors` ToRs, and in all; return the latter two."""
    total = 0.0
    for i in range(switches.size):
        per_tor[switches[i]] += amounts[i]
        per_container[switches[i] // tors] += amounts[i]
        total += amounts[i]
    return per_container, total


@njit(cache=True)
def candidate_costs(
    shape: NDArray[np.int64],
    usable: Floats,
    links: Floats,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
    scratch: Floats,
    costs: Floats,
) -> None:
    """Fill `costs` with the highest utilization among the links touched, for every switch.

    `links` is the utilization so far in the order of `Topology.fat_tree`; `scratch` is two rows of zeros.
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    tors, cores = K * T, A * G
    low, high = 1.0 / usable[0], 1.0 / usable[1]
    up = links[: tors * A].reshape(tors, A)
    down = links[tors * A : 2 * tors * A].reshape(tors, A)
    core_up = links[2 * tors * A : 2 * tors * A + K * cores].reshape(K, A, G)
    core_down = links[2 * tors * A + K * cores :].reshape(K, A, G)

    # Traffic per ToR and per container.
    out_tor, in_tor = scratch[0], scratch[1]
    out_box, out_all = sum_up(sources, sent, T, out_tor, np.zeros(K))
    in_box, in_all = sum_up(dips, received, T, in_tor, np.zeros(K))
    least = TOUCHED * (out_all + internet + in_all)
    crossing = internet * (A - 1) / A

    # The busiest links so far: per ToR, per container, per plane.
    tor_up, tor_down = np.zeros(tors), np.zeros(tors)
    agg_up, agg_down = np.zeros((K, A)), np.zeros((K, A))
    for t in range(tors):
        k = t // T
        for a in range(A):
            tor_up[t] = max(tor_up[t], up[t, a])
            tor_down[t] = max(tor_down[t], down[t, a])
            agg_up[k, a] = max(agg_up[k, a], up[t, a])
            agg_down[k, a] = max(agg_down[k, a], down[t, a])
    plane_up, plane_down = np.zeros((K, A)), np.zeros((K, A))
    box_up, box_down = np.zeros(K), np.zeros(K)
    for k in range(K):
        for a in range(A):
            for g in range(G):
                plane_up[k, a] = max(plane_up[k, a], core_up[k, a, g])
                plane_down[k, a] = max(plane_down[k, a], core_down[k, a, g])
            box_up[k] = max(box_up[k], plane_up[k, a])
            box_down[k] = max(box_down[k], plane_down[k, a])

    # ToR links that carry the traffic wherever the VIP is: spread over all Aggs (for ToR candidates),
    # or on one plane (for Agg and Core candidates).
    first, second, first_tor = 0.0, 0.0, -1
    on_plane = np.zeros(A)
    source_plane = np.zeros(A)
    source_agg = np.zeros((K, A))
    for i in range(sources.size):
        t = sources[i]
        if out_tor[t] > least:
            value = tor_up[t] + out_tor[t] / A * low
            if t == first_tor:
                first = max(first, value)
            elif value > first:
                first, second, first_tor = value, first, t
            else:
                second = max(second, value)
            for a in range(A):
                value = up[t, a] + out_tor[t] * low
                source_agg[t // T, a] = max(source_agg[t // T, a], value)
                source_plane[a] = max(source_plane[a], value)
    for i in range(dips.size):
        t = dips[i]
        if in_tor[t] > least:
            value = tor_down[t] + in_tor[t] / A * low
            if t == first_tor:
                first = max(first, value)
            elif value > first:
                first, second, first_tor = value, first, t
            else:
                second = max(second, value)
            for a in range(A):
                on_plane[a] = max(on_plane[a], down[t, a] + in_tor[t] * low)
    for a in range(A):
        on_plane[a] = max(on_plane[a], source_plane[a])

    # Agg-Core links of the containers that the VIP is not in: the busiest and the runner-up.
    box_first, box_second, box_at = 0.0, 0.0, -1
    agg_first, agg_second = np.zeros(A), np.zeros(A)
    agg_at = np.full(A, -1)
    for k in range(K):
        value = 0.0
        if out_box[k] > least:
            value = box_up[k] + out_box[k] / cores * high
        if in_box[k] > least:
            value = max(value, box_down[k] + in_box[k] / cores * high)
        if value > box_first:
            box_first, box_second, box_at = value, box_first, k
        else:
            box_second = max(box_second, value)
        for a in range(A):
            value = 0.0
            if out_box[k] > least:
                value = plane_up[k, a] + out_box[k] / G * high
            if in_box[k] > least:
                value = max(value, plane_down[k, a] + in_box[k] / G * high)
            if value > agg_first[a]:
                agg_second[a] = agg_first[a]
                agg_first[a] = value
                agg_at[a] = k
            else:
                agg_second[a] = max(agg_second[a], value)

    for k in range(K):
        leaving, entering = in_all - in_box[k], out_all - out_box[k]

        # ToRs.
        base = box_second if k == box_at else box_first
        if leaving > least:
            base = max(base, box_up[k] + leaving / cores * high)
        if entering + internet > least:
            base = max(base, box_down[k] + (entering + internet) / cores * high)
        for t in range(k * T, (k + 1) * T):
            cost = max(base, second if t == first_tor else first)
            leaving_tor = in_all - in_tor[t]
            entering_tor = out_all - out_tor[t] + internet
            if leaving_tor > least:
                cost = max(cost, tor_up[t] + leaving_tor / A * low)
            if entering_tor > least:
                cost = max(cost, tor_down[t] + entering_tor / A * low)
            costs[t] = cost

        # Aggs.
        for a in range(A):
            cost = max(on_plane[a], agg_second[a] if k == agg_at[a] else agg_first[a])
            if leaving > least:
                cost = max(cost, plane_up[k, a] + leaving / G * high)
            if entering + internet / A > least:
                cost = max(cost, plane_down[k, a] + (entering / G + internet / cores) * high)
            if crossing > least:
                extra = crossing / T * low
                cost = max(cost, agg_up[k, a] + extra)
                if source_agg[k, a] > 0.0:
                    cost = max(cost, source_agg[k, a] + extra)
                for b in range(A):
                    if b != a:
                        cost = max(cost, plane_down[k, b] + internet / cores * high)
                        cost = max(cost, agg_down[k, b] + internet / A / T * low)
            costs[tors + k * A + a] = cost

    # Cores.
    spread_down = np.zeros(A)
    spread_up = np.zeros(A)
    core_first, core_second, core_at = 0.0, 0.0, -1
    if internet > least:
        for a in range(A):
            for k in range(K):
                spread_down[a] = max(spread_down[a], agg_down[k, a])
                spread_up[a] = max(spread_up[a], agg_up[k, a])
            for g in range(G):
                value = 0.0
                for k in range(K):
                    value = max(value, core_down[k, a, g])
                value += internet / cores / K * high
                if value > core_first:
                    core_first, core_second, core_at = value, core_first, a * G + g
                else:
                    core_second = max(core_second, value)
    from_cores = internet * (cores - 1) / cores / K
    for a in range(A):
        base = on_plane[a]
        if crossing > least:
            extra = crossing / tors * low
            base = max(base, spread_up[a] + extra)
            if source_plane[a] > 0.0:
                base = max(base, source_plane[a] + extra)
            for b in range(A):
                if b != a:
                    base = max(base, spread_down[b] + internet / A / tors * low)
        for g in range(G):
            cost = base
            for k in range(K):
                if out_box[k] + from_cores > least:
                    cost = max(cost, core_up[k, a, g] + (out_box[k] + from_cores) * high)
                if in_box[k] > least:
                    cost = max(cost, core_down[k, a, g] + in_box[k] * high)
            if internet > least and cores > 1:
                cost = max(cost, core_second if core_at == a * G + g else core_first)
            costs[tors + K * A + a * G + g] = cost

    for i in range(sources.size):
        out_tor[sources[i]] = 0.0
    for i in range(dips.size):
        in_tor[dips[i]] = 0.0


@njit(cache=True)
def add_placement(
    shape: NDArray[np.int64],
    usable: Floats,
    links: Floats,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
    scratch: Floats,
    switch: int,
    sign: float,
) -> tuple[int, float]:
    """Add what a VIP on `switch` loads to `links`; return the busiest link touched and its utilization."""
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    tors, cores = K * T, A * G
    low, high = sign / usable[0], sign / usable[1]
    first_down = tors * A
    first_core_up = 2 * first_down
    first_core_down = first_core_up + K * cores
    out_tor, in_tor = scratch[0], scratch[1]
    out_box, out_all = sum_up(sources, sent, T, out_tor, np.zeros(K))
    in_box, in_all = sum_up(dips, received, T, in_tor, np.zeros(K))
    least = TOUCHED * (out_all + internet + in_all)
    crossing = internet * (A - 1) / A
    tor_out, tor_in = np.zeros((tors, A)), np.zeros((tors, A))
    up, down = np.zeros((K, A, G)), np.zeros((K, A, G))

    if switch < tors:
        own = switch // T
        for t in range(tors):
            out = in_all - in_tor[t] if t == switch else out_tor[t]
            into = out_all - out_tor[t] + internet if t == switch else in_tor[t]
            for a in range(A):
                tor_out[t, a] = out / A
                tor_in[t, a] = into / A
        for k in range(K):
            out = in_all - in_box[k] if k == own else out_box[k]
            into = out_all - out_box[k] + internet if k == own else in_box[k]
            up[k] = out / cores
            down[k] = into / cores
    elif switch < tors + K * A:
        own, plane = (switch - tors) // A, (switch - tors) % A
        for t in range(tors):
            tor_out[t, plane] = out_tor[t]
            tor_in[t, plane] = in_tor[t]
            if t // T == own:
                tor_out[t, plane] += crossing / T
                for b in range(A):
                    if b != plane:
                        tor_in[t, b] = internet / A / T
        for k in range(K):
            up[k, plane] = (in_all - in_box[k] if k == own else out_box[k]) / G
            down[k, plane] = (out_all - out_box[k] if k == own else in_box[k]) / G
        for a in range(A):
            for g in range(G):
                down[own, a, g] += internet / cores
    else:
        core = switch - tors - K * A
        plane, g = core // G, core % G
        for t in range(tors):
            tor_out[t, plane] = out_tor[t] + crossing / tors
            tor_in[t, plane] = in_tor[t]
            for b in range(A):
                if b != plane:
                    tor_in[t, b] = internet / A / tors
        down[:] = internet / cores / K
        for k in range(K):
            up[k, plane, g] = out_box[k] + internet * (cores - 1) / cores / K
            down[k, plane, g] = in_box[k]

    link, busiest = -1, 0.0
    for t in range(tors):
        for a in range(A):
            i = t * A + a
            if tor_out[t, a] > least:
                links[i] += tor_out[t, a] * low
                if links[i] > busiest:
                    link, busiest = i, links[i]
            if tor_in[t, a] > least:
                links[first_down + i] += tor_in[t, a] * low
                if links[first_down + i] > busiest:
                    link, busiest = first_down + i, links[first_down + i]
    for k in range(K):
        for a in range(A):
            for c in range(G):
                i = (k * A + a) * G + c
                if up[k, a, c] > least:
                    links[first_core_up + i] += up[k, a, c] * high
                    if links[first_core_up + i] > busiest:
                        link, busiest = first_core_up + i, links[first_core_up + i]
                if down[k, a, c] > least:
                    links[first_core_down + i] += down[k, a, c] * high
                    if links[first_core_down + i] > busiest:
                        link, busiest = first_core_down + i, links[first_core_down + i]
    for i in range(sources.size):
        out_tor[sources[i]] = 0.0
    for i in range(dips.size):
        in_tor[dips[i]] = 0.0
    return link, busiest


@njit(cache=True)
def leg_costs(
    start: Ints,
    order: Ints,
    target: Ints,
    hops: Hops,
    links: Floats,
    usable: Floats,
    origin: int,
    amount: float,
    costs: Floats,
) -> None:
    """Raise `costs` to the highest utilization on the way from `origin` to each switch."""
    if amount <= 0:
        return
    n = costs.size
    flow, queue = np.zeros(n), np.empty(n, np.int32)
    touched, load = np.empty(links.size, np.int32), np.zeros(links.size)
    for s in range(n):
        if s == origin:
            continue
        found = add_flow(start, order, target, hops[s], origin, amount, flow, queue, touched, load)
        for i in range(found):
            costs[s] = max(costs[s], links[touched[i]] + load[touched[i]] / usable[touched[i]])
        for i in range(found):
            load[touched[i]] = 0.0


@njit(cache=True)
def add_leg(
    start: Ints,
    order: Ints,
    target: Ints,
    hops: Hops,
    links: Floats,
    usable: Floats,
    origin: int,
    amount: float,
    switch: int,
    sign: float,
) -> tuple[int, float]:
    """Add a flow `origin` -> `switch` to `links`; return the busiest link touched and its utilization."""
    n = hops.shape[0]
    flow, queue = np.zeros(n), np.empty(n, np.int32)
    touched, load = np.empty(links.size, np.int32), np.zeros(links.size)
    found = add_flow(start, order, target, hops[switch], origin, amount, flow, queue, touched, load)
    link, busiest = -1, 0.0
    for i in range(found):
        at = touched[i]
        links[at] += sign * load[at] / usable[at]
        if links[at] > busiest:
            link, busiest = at, links[at]
    return link, busiest


__all__ = ["FatTreeLedger"]
