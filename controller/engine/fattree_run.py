"""Places one VIP after the other on a FatTree without leaving compiled code.

It does what `assignment` does with the rule `KeepOrBest`, VIP by VIP, by the same kernels: what would be a
dozen calls per VIP from Python costs more there than all the arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from controller.engine.fattree_costs import candidate_costs, first_within, smallest
from controller.engine.fattree_loads import add_placement
from controller.engine.topology import Floats, Ints

Flags = NDArray[np.bool_]


@njit(cache=True)
def place_rows(
    shape: NDArray[np.int64],
    usable: Floats,
    state: Floats,
    scratch: Floats,
    entries: Floats,
    per_entry: Floats,
    source_start: NDArray[np.int64],
    source_switch: Ints,
    sent: Floats,
    internet: Floats,
    dip_start: NDArray[np.int64],
    dip_switch: Ints,
    received: Floats,
    tables: NDArray[np.int64],
    order: NDArray[np.int64],
    has_tips: Flags,
    current: Ints,
    staying: Flags,
    turns: NDArray[np.int64],
    traffic: Floats,
    excluded: Ints,
    closed: Ints,
    delta: float,
    moves: bool,
    feasible: float,
    tie: float,
    switch: Ints,
    cost: Floats,
    bottleneck: Ints,
    runner_up: Ints,
    runner_up_cost: Floats,
    carried: Floats,
    at: int,
    left: int,
    worst: float,
) -> tuple[int, int, float]:
    """Place the VIPs of `order` from number `at` on, until one has TIPs, or no /32 route is left.

    Returns the number it came to, the routes left, and the highest utilization of any resource.
    """
    costs = np.empty(per_entry.shape[0])
    while at < order.size and left > 0:
        row = order[at]
        if has_tips[row]:
            break
        at += 1
        sources = source_switch[source_start[row] : source_start[row + 1]]
        amounts = sent[source_start[row] : source_start[row + 1]]
        dips = dip_switch[dip_start[row] : dip_start[row + 1]]
        shares = received[dip_start[row] : dip_start[row + 1]]
        need, own = tables[row], current[row]
        least = candidate_costs(
            shape, usable, state, scratch, sources, amounts, internet[row], dips, shares, need,
            entries, per_entry, excluded, costs,
        )  # fmt: skip
        if closed.size:
            for i in range(closed.size):
                if closed[i] != own:
                    costs[closed[i]] = np.inf
            least = smallest(costs)
        fits = own >= 0 and costs[own] <= feasible
        found = -1
        if staying[row] or (fits and max(worst, costs[own]) - max(worst, least) <= delta):
            found = own
        elif moves and least <= feasible:
            found = first_within(costs, least + tie, turns[row])
        if found < 0:
            cost[row] = least
            continue
        cost[row] = costs[found]
        costs[found] = np.inf
        second = smallest(costs)
        if second < np.inf:
            runner_up[row], runner_up_cost[row] = first_within(costs, second, 0), second
        switch[row] = found
        bottleneck[row], busiest = add_placement(
            shape, usable, state, scratch, sources, amounts, internet[row], dips, shares, need,
            entries, per_entry, found, 1,
        )  # fmt: skip
        worst = max(worst, busiest)
        carried[found] += traffic[row]
        left -= 1
    return at, left, worst


__all__ = ["place_rows"]
