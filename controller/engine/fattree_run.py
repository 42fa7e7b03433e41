"""Places one VIP after the other on a FatTree without leaving compiled code.

It does what `assignment` does with the rule `KeepOrChoose`, VIP by VIP, by the same kernels: what would be a
dozen calls per VIP from Python costs more there than all the arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.choices import (
    AnyThatFits,
    FirstListed,
    KeepOrChoose,
    LeastLost,
    Lightest,
    Preferred,
    SmallestMru,
    preference,
)
from controller.engine.compiled import kernel
from controller.engine.fattree_costs import candidate_costs, first_within, smallest
from controller.engine.fattree_loads import add_placement
from controller.engine.topology import Floats, Ints

Flags = NDArray[np.bool_]
LIGHTEST, DRAWN, PREFERRED, LISTED, LEAST_LOST = range(5)
_NONE = np.zeros(0, np.int64)
_NO_HASHES = np.zeros(0, np.uint64)
_NO_DRAWS = np.random.default_rng(0)
_preference = kernel()(preference)


class How(NamedTuple):
    """A rule for compiled code: `choice` by the numbers above; `listed` is the order, or the containers.

    What is drawn or preferred costs at most `slack` more than the least, of the touched resources or,
    `everywhere`, of all.
    """

    choice: int
    delta: float
    moves: bool
    ends: bool
    rng: np.random.Generator = _NO_DRAWS
    listed: NDArray[np.int64] = _NONE
    boxes: int = 0
    others: int = 0
    hashes: NDArray[np.uint64] = _NO_HASHES
    slack: float = 0.0
    everywhere: bool = False


def compiled(rule: KeepOrChoose) -> How | None:
    """Return a rule for compiled code; None for one whose choice there is only in Python."""
    choice, rest = rule.choice, (rule.delta, rule.moves, rule.ends)
    match choice:
        case Lightest():
            return How(LIGHTEST, *rest)
        case SmallestMru():
            return How(DRAWN, *rest, rng=choice.rng, everywhere=True)
        case AnyThatFits():
            return How(DRAWN, *rest, rng=choice.rng, slack=np.inf)
        case Preferred():
            return How(
                PREFERRED, *rest, hashes=choice.hashes, slack=choice.epsilon, everywhere=choice.everywhere
            )
        case FirstListed():
            return How(LISTED, *rest, listed=choice.order)
        case LeastLost():
            return How(LEAST_LOST, *rest, listed=choice.box, boxes=choice.boxes, others=choice.others)
    return None


@kernel()
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
    how: How,
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
    """Place the VIPs of `order` from number `at` on, until one has TIPs, no /32 route is left, or it ends.

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
        if staying[row] or (fits and max(worst, costs[own]) - max(worst, least) <= how.delta):
            found = own
        elif how.moves and least <= feasible:
            found = chosen(how, row, costs, least, worst, carried, traffic[row], turns[row], feasible, tie)
        if found < 0:
            cost[row] = least
            if how.ends and not staying[row]:
                at = order.size
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


@kernel()
def chosen(
    how: How,
    row: int,
    costs: Floats,
    least: float,
    worst: float,
    carried: Floats,
    traffic: float,
    turn: int,
    feasible: float,
    tie: float,
) -> int:
    """Return the switch that the rule chooses, of which at least one fits."""
    if how.choice == LISTED:
        for s in how.listed:
            if costs[s] <= feasible:
                return int(s)
    if how.choice == LEAST_LOST:
        return least_lost(how, costs, carried, traffic, turn, feasible, tie)
    if how.choice == LIGHTEST:
        return first_within(costs, least + tie, turn)
    limit = min((max(least, worst) if how.everywhere else least) + how.slack + tie, feasible)
    if how.choice == PREFERRED:
        return preferred(how.hashes[row], costs, limit)
    near = 0
    for s in range(costs.size):
        near += costs[s] <= limit
    left = how.rng.integers(0, near)
    for s in range(costs.size):
        if costs[s] <= limit:
            if left == 0:
                return s
            left -= 1
    return -1


@kernel()
def preferred(name: np.uint64, costs: Floats, limit: float) -> int:
    """Choose as `choices.Preferred` does."""
    found, most = -1, np.uint64(0)
    for s in range(costs.size):
        if costs[s] <= limit:
            liking = _preference(name, np.uint64(s))
            if found < 0 or liking > most:
                found, most = s, liking
    return found


@kernel()
def least_lost(
    how: How, costs: Floats, carried: Floats, traffic: float, turn: int, feasible: float, tie: float
) -> int:
    """Choose as `choices.LeastLost` does."""
    busiest = np.zeros(how.others)
    per_box = np.zeros(how.boxes + 1)
    for s in range(carried.size):
        per_box[how.listed[s]] += carried[s]
        if carried[s] > busiest[0]:  # From the least on, as sorting would leave them.
            i = 1
            while i < busiest.size and carried[s] > busiest[i]:
                busiest[i - 1] = busiest[i]
                i += 1
            busiest[i - 1] = carried[s]
    per_box[how.boxes] = 0.0
    others = 0.0
    for i in range(1, busiest.size):
        others += busiest[i]
    together = 0.0
    for i in range(busiest.size):
        together += busiest[i]
    lost = np.empty(costs.size)
    fewest = np.inf
    for s in range(costs.size):
        lost[s] = max(min(carried[s] + others, together) + traffic, per_box[how.listed[s]] + traffic)
        if costs[s] <= feasible:
            fewest = min(fewest, lost[s])
    cheapest = np.inf
    for s in range(costs.size):
        if costs[s] <= feasible and lost[s] <= fewest * (1 + tie):
            cheapest = min(cheapest, costs[s])
    for i in range(costs.size):
        s = (turn + i) % costs.size
        if costs[s] <= min(cheapest + tie, feasible) and lost[s] <= fewest * (1 + tie):
            return s
    return -1


__all__ = ["How", "compiled", "place_rows"]
