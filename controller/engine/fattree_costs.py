"""What a VIP would cost on every ToR, Agg and Core of a FatTree: one kernel each, under its formula.

K, T, A, G are containers, ToRs and Aggs per container, Cores per Agg; `low` and `high` are utilization per
bit/s of ToR-Agg and Agg-Core links. out(x) and in(x) are the VIP's traffic from and to ToR or container x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.fattree_state import DOWN, UP, State, Sums, add_up, clear, look_into
from controller.engine.topology import Floats, Ints


class Anywhere(NamedTuple):
    """The busiest of the links that the VIP loads wherever it is.

    Spread over all planes (for ToR candidates): at sources' and DIPs' ToRs `tor_first`, without those of
    ToR `tor_at` `tor_second`; between containers and Cores `box_first`, without container `box_at`
    `box_second`. On plane a alone (for its Aggs and Cores): at ToRs `on_plane`, at source ToRs
    `source_plane` (in container k `source_agg`), between containers and Cores `agg_first`, and so on.
    """

    tor_first: float
    tor_second: float
    tor_at: int
    box_first: float
    box_second: float
    box_at: int
    on_plane: Floats
    source_plane: Floats
    source_agg: Floats
    agg_first: Floats
    agg_second: Floats
    agg_at: NDArray[np.int64]


@kernel(fastmath={"nnan", "nsz"})
def candidate_costs(
    shape: NDArray[np.int64],
    usable: Floats,
    state: Floats,
    scratch: Floats,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
    need: NDArray[np.int64],
    entries: Floats,
    per_entry: Floats,
    barred: Ints,
    costs: Floats,
) -> float:
    """Fill `costs` with the highest utilization among what is touched, for every switch; return the least."""
    low, high = 1.0 / usable[0], 1.0 / usable[1]
    links = look_into(shape, state)
    sums = add_up(shape, scratch, sources, sent, internet, dips, received)
    anywhere = busiest_anywhere(shape, low, high, links, sums, sources, dips)
    tor_costs(shape, low, high, links, sums, anywhere, costs)
    agg_costs(shape, low, high, links, sums, anywhere, costs)
    core_costs(shape, low, high, links, sums, anywhere, costs)
    clear(sums, sources, dips)
    table_costs(need, entries, per_entry, costs)
    for i in range(barred.size):
        costs[barred[i]] = np.inf
    return smallest(costs)


@kernel(fastmath={"nnan", "nsz"})
def busiest_anywhere(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    sums: Sums,
    sources: Ints,
    dips: Ints,
) -> Anywhere:
    """Find what does not depend on the candidate.

    ToR t:        up(t, a) + out(t) / A,  down(t, a) + in(t) / A;   on one plane not divided by A
    container k:  core_up(k, a, g) + out(k) / (A G),  core_down(k, a, g) + in(k) / (A G);  on one plane 1 / G
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    tor, tor_top, plane_top, box_top = links.tor, links.tor_top, links.plane_top, links.box_top
    amounts, boxes, least = sums.tor, sums.box, sums.least
    tor_first, tor_second, tor_at = 0.0, 0.0, -1
    on_plane, source_plane, source_agg = np.zeros(A), np.zeros(A), np.zeros((K, A))
    for way in range(2):
        ends = sources if way == UP else dips
        for i in range(ends.size):
            t = ends[i]
            if t >= K * T or not amounts[way, t] > least:
                continue
            value = tor_top[way, t] + amounts[way, t] / A * low
            if t == tor_at:
                tor_first = max(tor_first, value)
            elif value > tor_first:
                tor_first, tor_second, tor_at = value, tor_first, t
            else:
                tor_second = max(tor_second, value)
            for a in range(A):
                value = tor[way, t, a] + amounts[way, t] * low
                on_plane[a] = max(on_plane[a], value)
                if way == UP:
                    source_agg[t // T, a] = max(source_agg[t // T, a], value)
        if way == UP:
            source_plane[:] = on_plane

    box_first, box_second, box_at = 0.0, 0.0, -1
    agg_first, agg_second, agg_at = np.zeros(A), np.zeros(A), np.full(A, -1)
    for k in range(K):
        spread, straight = 0.0, np.zeros(A)
        for way in range(2):
            if boxes[way, k] > least:
                spread = max(spread, box_top[way, k] + boxes[way, k] / (A * G) * high)
                for a in range(A):
                    straight[a] = max(straight[a], plane_top[way, k, a] + boxes[way, k] / G * high)
        if spread > box_first:
            box_first, box_second, box_at = spread, box_first, k
        else:
            box_second = max(box_second, spread)
        for a in range(A):
            if straight[a] > agg_first[a]:
                agg_first[a], agg_second[a], agg_at[a] = straight[a], agg_first[a], k
            else:
                agg_second[a] = max(agg_second[a], straight[a])
    return Anywhere(
        tor_first, tor_second, tor_at, box_first, box_second, box_at,
        on_plane, source_plane, source_agg, agg_first, agg_second, agg_at,
    )  # fmt: skip


@kernel(fastmath={"nnan", "nsz"})
def tor_costs(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    sums: Sums,
    anywhere: Anywhere,
    costs: Floats,
) -> None:
    """Cost of ToR t of container k: what is loaded anywhere but at t and k, and there

    up(t, a) + (in_all - in(t)) / A,  core_up(k, a, g) + (in_all - in(k)) / (A G)
    down(t, a) + (out_all - out(t) + internet) / A
    core_down(k, a, g) + (out_all - out(k) + internet) / (A G)
    """
    K, T, A, cores = shape[0], shape[1], shape[2], shape[2] * shape[3]  # noqa: N806
    tor_top, box_top, amounts, boxes, least = links.tor_top, links.box_top, sums.tor, sums.box, sums.least
    through = np.array([sums.all[DOWN], sums.all[UP] + sums.internet])
    for k in range(K):
        base = anywhere.box_second if k == anywhere.box_at else anywhere.box_first
        for way in range(2):
            amount = through[way] - boxes[1 - way, k]
            if amount > least:
                base = max(base, box_top[way, k] + amount / cores * high)
        costs[k * T : (k + 1) * T] = max(base, anywhere.tor_first)
        if anywhere.tor_at // T == k and anywhere.tor_at >= 0:
            costs[anywhere.tor_at] = max(base, anywhere.tor_second)
    for way in range(2):
        for t in range(K * T):
            amount = through[way] - amounts[1 - way, t]
            value = tor_top[way, t] + amount / A * low if amount > least else 0.0
            costs[t] = value if value > costs[t] else costs[t]


@kernel(fastmath={"nnan", "nsz"})
def agg_costs(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    sums: Sums,
    anywhere: Anywhere,
    costs: Floats,
) -> None:
    """Cost of Agg a of container k: what is loaded anywhere on plane a but by k, and at its ToRs t,

    core_up(k, a, g) + (in_all - in(k)) / G
    core_down(k, a, g) + (out_all - out(k)) / G + internet / (A G)
    and for planes b != a, from which the Internet's traffic, x = internet / A each, crosses over at the ToRs:
    core_down(k, b, g) + x / G,  down(t, b) + x / T,  up(t, a) + out(t) + (A - 1) x / T
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    agg_top, plane_top, least = links.agg_top, links.plane_top, sums.least
    x = sums.internet / A
    crossing = (A - 1) * x / T * low
    for k in range(K):
        leaving = sums.all[DOWN] - sums.box[DOWN, k]
        entering = sums.all[UP] - sums.box[UP, k] + x
        for a in range(A):
            other = anywhere.agg_second[a] if k == anywhere.agg_at[a] else anywhere.agg_first[a]
            cost = max(anywhere.on_plane[a], other)
            if leaving > least:
                cost = max(cost, plane_top[UP, k, a] + leaving / G * high)
            if entering > least:
                cost = max(cost, plane_top[DOWN, k, a] + entering / G * high)
            if (A - 1) * x > least:
                cost = max(cost, agg_top[UP, k, a] + crossing)
                if anywhere.source_agg[k, a] > 0.0:
                    cost = max(cost, anywhere.source_agg[k, a] + crossing)
                for b in range(A):
                    if b != a:
                        cost = max(cost, plane_top[DOWN, k, b] + x / G * high)
                        cost = max(cost, agg_top[DOWN, k, b] + x / T * low)
            costs[K * T + k * A + a] = cost


@kernel(fastmath={"nnan", "nsz"})
def core_costs(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    sums: Sums,
    anywhere: Anywhere,
    costs: Floats,
) -> None:
    """Cost of Core g of plane a: what ToRs load on plane a, and for all containers k

    core_up(k, a, g) + out(k) + y,  core_down(k, a, g) + in(k)
    and for all other Cores (b, h), from which the Internet's traffic comes down, y = from all of them / K,
    core_down(k, b, h) + internet / (A G K)
    and for planes b != a, from which it crosses over at all ToRs t, x = internet / A each,
    down(t, b) + x / (K T),  up(t, a) + out(t) + (A - 1) x / (K T)
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    agg_top, core_out, boxes, least = links.agg_top, links.core_out, sums.box, sums.least
    first, cores = K * T + K * A, A * G
    x, y = sums.internet / A, sums.internet * (cores - 1) / cores / K
    out_first, out_second, out_at = 0.0, 0.0, -1
    agg_up, agg_down = np.zeros(A), np.zeros(A)
    if sums.internet > least:
        for k in range(K):
            for a in range(A):
                agg_up[a] = max(agg_up[a], agg_top[UP, k, a])
                agg_down[a] = max(agg_down[a], agg_top[DOWN, k, a])
        for c in range(cores):
            value = core_out[c] + sums.internet / cores / K * high
            if value > out_first:
                out_first, out_second, out_at = value, out_first, c
            else:
                out_second = max(out_second, value)
    for a in range(A):
        base = anywhere.on_plane[a]
        if (A - 1) * x > least:
            crossing = (A - 1) * x / (K * T) * low
            base = max(base, agg_up[a] + crossing)
            if anywhere.source_plane[a] > 0.0:
                base = max(base, anywhere.source_plane[a] + crossing)
            for b in range(A):
                if b != a:
                    base = max(base, agg_down[b] + x / (K * T) * low)
        for g in range(G):
            c = a * G + g
            costs[first + c] = max(base, out_second if out_at == c else out_first)
    core, own = links.core.reshape(2, K, cores), costs[first:]
    for way in range(2):
        for k in range(K):
            amount = boxes[way, k] + (y if way == UP else 0.0)
            if amount > least:
                for c in range(cores):
                    value = core[way, k, c] + amount * high
                    own[c] = value if value > own[c] else own[c]


@kernel(fastmath={"nnan", "nsz"})
def table_costs(need: NDArray[np.int64], entries: Floats, per_entry: Floats, costs: Floats) -> None:
    """Raise costs to how full the fullest of the tables that `need` touches would be."""
    for table in range(need.size):
        if need[table]:
            for s in range(costs.size):
                filled = (entries[s, table] + need[table]) * per_entry[s, table]
                costs[s] = filled if filled > costs[s] else costs[s]


@kernel(fastmath={"nnan", "nsz"})
def smallest(costs: Floats) -> float:
    """Return the smallest cost."""
    least = np.inf
    for s in range(costs.size):
        least = costs[s] if costs[s] < least else least
    return least


@kernel(fastmath={"nnan", "nsz"})
def first_within(costs: Floats, limit: float, turn: int) -> int:
    """Return the first switch, counting round from `turn`, whose cost is at most `limit`; -1 for none."""
    for s in range(turn, costs.size):
        if costs[s] <= limit:
            return s
    for s in range(turn):
        if costs[s] <= limit:
            return s
    return -1


@kernel(fastmath={"nnan", "nsz"})
def leg_costs(
    shape: NDArray[np.int64], usable: Floats, state: Floats, origin: int, x: float, costs: Floats
) -> float:
    """Raise costs to the busiest link on the way of x bit/s from an Agg or a Core; return the least."""
    low, high = 1.0 / usable[0], 1.0 / usable[1]
    links = look_into(shape, state)
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    if x > 0 and origin < K * T + K * A:
        agg_leg(shape, low, high, links, (origin - K * T) // A, (origin - K * T) % A, x, costs)
    elif x > 0:
        core_leg(
            shape, low, high, links, (origin - K * T - K * A) // G, (origin - K * T - K * A) % G, x, costs
        )
    least = np.inf
    for s in range(costs.size):
        least = min(least, costs[s])
    return least


@kernel(fastmath={"nnan", "nsz"})
def agg_leg(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    own: int,
    plane: int,
    x: float,
    costs: Floats,
) -> None:
    """From Agg `plane` of container `own`, x bit/s to

    a ToR t of the container: down(t, plane);  to another container's, and to the Agg of the same plane there:
    by the G Cores of the plane, 1/G each;  to an Agg b of the container, and to a Core of its plane: by the T
    ToRs, 1/T each;  to Agg b of container k: both ways, by the Cores and across k, and across and by the
    Cores of b, with 1/(G + T) for each of the first hops;  to an own Core: straight.
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    across = max(links.agg_top[DOWN, own, plane] + x / T * low, 0.0)
    part = x / (G + T)
    for k in range(K):
        by_cores = 0.0
        if k != own:
            by_cores = max(links.plane_top[UP, own, plane], links.plane_top[DOWN, k, plane]) + x / G * high
        for t in range(k * T, (k + 1) * T):
            costs[t] = max(costs[t], by_cores, links.tor[DOWN, t, plane] + x * low)
        for b in range(A):
            s = K * T + k * A + b
            if b == plane:
                costs[s] = max(costs[s], by_cores)
            elif k == own:
                costs[s] = max(costs[s], across, links.agg_top[UP, own, b] + x / T * low)
            else:
                first = max(links.plane_top[UP, own, plane], links.plane_top[DOWN, k, plane]) + part * high
                first = max(
                    first, max(links.agg_top[DOWN, k, plane], links.agg_top[UP, k, b]) + part * G / T * low
                )
                second = max(links.agg_top[DOWN, own, plane], links.agg_top[UP, own, b]) + part * low
                second = max(
                    second,
                    max(links.plane_top[UP, own, b], links.plane_top[DOWN, k, b]) + part * T / G * high,
                )
                costs[s] = max(costs[s], first, second)
    for b in range(A):
        for g in range(G):
            s = K * T + K * A + b * G + g
            costs[s] = max(costs[s], links.core[UP, own, b, g] + x * high)
            if b != plane:
                costs[s] = max(costs[s], across, links.agg_top[UP, own, b] + x / T * low)


@kernel(fastmath={"nnan", "nsz"})
def core_leg(
    shape: NDArray[np.int64],
    low: float,
    high: float,
    links: State,
    plane: int,
    core: int,
    x: float,
    costs: Floats,
) -> None:
    """From Core `core` of plane `plane`, x bit/s to

    a ToR and to the Agg of the plane in container k: straight down;  to another Agg b of k: by the Agg of the
    plane and the T ToRs, 1/T each;  to another Core of the plane: by all K containers, 1/K each;  to a Core
    of plane b: by all containers and all ToRs, 1/(K T) each.
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    for k in range(K):
        straight = links.core[DOWN, k, plane, core] + x * high
        across = max(straight, links.agg_top[DOWN, k, plane] + x / T * low)
        for t in range(k * T, (k + 1) * T):
            costs[t] = max(costs[t], straight, links.tor[DOWN, t, plane] + x * low)
        for b in range(A):
            s = K * T + k * A + b
            if b == plane:
                costs[s] = max(costs[s], straight)
            else:
                costs[s] = max(costs[s], across, links.agg_top[UP, k, b] + x / T * low)
    out = links.core_out[plane * G + core] + x / K * high
    for b in range(A):
        base = out
        if b != plane:
            for k in range(K):
                base = max(
                    base, max(links.agg_top[DOWN, k, plane], links.agg_top[UP, k, b]) + x / (K * T) * low
                )
        for g in range(G):
            if b == plane and g == core:
                continue
            s = K * T + K * A + b * G + g
            for k in range(K):
                base_up = links.core[UP, k, b, g] + x / K * high
                costs[s] = max(costs[s], base, base_up)


__all__ = ["candidate_costs", "first_within", "leg_costs", "smallest"]
