"""Loads the links and tables of a FatTree that a VIP touches where it is, and the maxima with them.

The formulas are those of `fattree_costs`. Loops stand in few functions, for a call in the innermost one
would cost more than what it does. `top` is the busiest link touched: its utilization and its number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.fattree_state import DOWN, UP, State, Sums, add_up, clear, look_into
from controller.engine.paths import add_flow
from controller.engine.topology import Floats, Ints


@kernel()
def add_placement(
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
    switch: int,
    sign: int,
) -> tuple[int, float]:
    """Load what a VIP on `switch` touches; return the most utilized resource touched and its utilization.

    With `sign` -1 the load is taken off, and the maxima are then to be found anew (`refresh`).
    """
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    low, high = sign / usable[0], sign / usable[1]
    links = look_into(shape, state)
    sums = add_up(shape, scratch, sources, sent, internet, dips, received)
    top = np.array([0.0, -1.0])
    per_core, busy = np.zeros((2, K, A, G)), sums.box > 0
    if switch < K * T:
        busy[:, switch // T] = True
        share_for_tor(shape, sums, switch, per_core)
        load_tors(shape, low, links, sums, sources, dips, switch, -1, top)
    elif switch < K * T + K * A:
        own, plane = (switch - K * T) // A, (switch - K * T) % A
        busy[:, own] = True
        share_for_agg(shape, sums, own, plane, per_core)
        cross_over(shape, low, links, sums, own * T, T, plane, top)
        load_tors(shape, low, links, sums, sources, dips, -1, plane, top)
    else:
        core = switch - K * T - K * A
        busy[:] = True
        share_for_core(shape, sums, core // G, core % G, per_core)
        cross_over(shape, low, links, sums, 0, K * T, core // G, top)
        load_tors(shape, low, links, sums, sources, dips, -1, core // G, top)
    clear(sums, sources, dips)
    load_cores(shape, high, links, per_core, busy, sums.least, top)
    fullest, table = add_entries(need, entries, per_entry, switch, sign)
    if fullest >= top[0]:
        return 2 * K * T * A + 2 * K * A * G + switch * need.size + table, fullest
    return int(top[1]), top[0]


@kernel()
def share_for_tor(shape: NDArray[np.int64], sums: Sums, tor: int, per_core: Floats) -> None:
    """Spread a VIP on a ToR over all Cores; set `sums` to what the ToR itself sends and gets."""
    T, cores = shape[1], shape[2] * shape[3]  # noqa: N806
    own = tor // T
    leaving, entering = sums.all[DOWN] - sums.tor[DOWN, tor], sums.all[UP] - sums.tor[UP, tor] + sums.internet
    sums.tor[UP, tor], sums.tor[DOWN, tor] = leaving, entering
    leaving, entering = sums.all[DOWN] - sums.box[DOWN, own], sums.all[UP] - sums.box[UP, own] + sums.internet
    per_core[UP, own], per_core[DOWN, own] = leaving / cores, entering / cores
    for way in range(2):
        for k in range(shape[0]):
            if k != own and sums.box[way, k] > 0:
                per_core[way, k] = sums.box[way, k] / cores


@kernel()
def share_for_agg(shape: NDArray[np.int64], sums: Sums, own: int, plane: int, per_core: Floats) -> None:
    """Spread the traffic of a VIP on an Agg over the Cores of its plane, the Internet's over all."""
    G = shape[3]  # noqa: N806
    for way in range(2):
        for k in range(shape[0]):
            amount = sums.all[1 - way] - sums.box[1 - way, k] if k == own else sums.box[way, k]
            if amount > 0:
                per_core[way, k, plane] = amount / G
    per_core[DOWN, own] += sums.internet / (shape[2] * G)


@kernel()
def share_for_core(shape: NDArray[np.int64], sums: Sums, plane: int, g: int, per_core: Floats) -> None:
    """Bring a VIP's traffic to its Core, and the Internet's from all other Cores by all containers."""
    K, cores = shape[0], shape[2] * shape[3]  # noqa: N806
    if sums.internet > sums.least:
        per_core[DOWN] = sums.internet / cores / K
    for k in range(K):
        per_core[UP, k, plane, g] = sums.box[UP, k] + sums.internet * (cores - 1) / cores / K
        per_core[DOWN, k, plane, g] = sums.box[DOWN, k]


@kernel()
def load_tors(
    shape: NDArray[np.int64],
    low: float,
    links: State,
    sums: Sums,
    sources: Ints,
    dips: Ints,
    tor: int,
    plane: int,
    top: Floats,
) -> None:
    """Load the links of ToRs by `sums`, on all planes evenly (`plane` -1) or on one. `tor` counts as both
    a source and a DIP's. What was loaded is zero afterwards.
    """
    T, A, tors = shape[1], shape[2], shape[0] * shape[1]  # noqa: N806
    each, tor_top, agg_top, amounts = links.tor, links.tor_top, links.agg_top, sums.tor
    first, end, ways = (0, A, A) if plane < 0 else (plane, plane + 1, 1)
    for way in range(2):
        ends = sources if way == UP else dips
        for i in range(-1, ends.size):
            t = tor if i < 0 else ends[i]
            if t < 0 or t >= tors:
                continue
            amount = amounts[way, t]
            amounts[way, t] = 0.0
            if not amount > sums.least:
                continue
            extra, k = amount / ways * low, t // T
            for a in range(first, end):
                value = each[way, t, a] + extra
                each[way, t, a] = value
                tor_top[way, t] = max(tor_top[way, t], value)
                agg_top[way, k, a] = max(agg_top[way, k, a], value)
                if value > top[0]:
                    top[0], top[1] = value, (way * tors + t) * A + a


@kernel()
def cross_over(
    shape: NDArray[np.int64],
    low: float,
    links: State,
    sums: Sums,
    first: int,
    count: int,
    plane: int,
    top: Floats,
) -> None:
    """Load `count` ToRs from `first` on with the Internet's traffic that crosses over to a plane at them."""
    T, A, tors = shape[1], shape[2], shape[0] * shape[1]  # noqa: N806
    x = sums.internet / A
    if not (A - 1) * x > sums.least:
        return
    each, tor_top, agg_top, amounts = links.tor, links.tor_top, links.agg_top, sums.tor
    for t in range(first, first + count):
        k = t // T
        for a in range(A):
            way, amount = DOWN, x / count
            if a == plane:
                way, amount = UP, (A - 1) * x / count + amounts[UP, t]
                amounts[UP, t] = 0.0
            value = each[way, t, a] + amount * low
            each[way, t, a] = value
            tor_top[way, t] = max(tor_top[way, t], value)
            agg_top[way, k, a] = max(agg_top[way, k, a], value)
            if value > top[0]:
                top[0], top[1] = value, (way * tors + t) * A + a


@kernel()
def load_cores(
    shape: NDArray[np.int64],
    high: float,
    links: State,
    per_core: Floats,
    busy: NDArray[np.bool_],
    least: float,
    top: Floats,
) -> None:
    """Load the links between the containers that are busy and the Cores with so many bit/s each."""
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    each, plane_top, box_top, core_out = links.core, links.plane_top, links.box_top, links.core_out
    for way in range(2):
        for k in range(K):
            if not busy[way, k]:
                continue
            for a in range(A):
                for g in range(G):
                    if per_core[way, k, a, g] > least:
                        value = each[way, k, a, g] + per_core[way, k, a, g] * high
                        each[way, k, a, g] = value
                        plane_top[way, k, a] = max(plane_top[way, k, a], value)
                        if way == DOWN:
                            core_out[a * G + g] = max(core_out[a * G + g], value)
                        if value > top[0]:
                            top[0], top[1] = value, 2 * K * T * A + ((way * K + k) * A + a) * G + g
                box_top[way, k] = max(box_top[way, k], plane_top[way, k, a])


@kernel()
def add_entries(
    need: NDArray[np.int64], entries: Floats, per_entry: Floats, switch: int, sign: int
) -> tuple[float, int]:
    """Fill tables of a switch; return how full the fullest touched is, and which."""
    fullest, table = -1.0, 0
    for i in range(need.size):
        entries[switch, i] += sign * need[i]
        if need[i] and entries[switch, i] > 0 and entries[switch, i] * per_entry[switch, i] > fullest:
            fullest, table = entries[switch, i] * per_entry[switch, i], i
    return fullest, table


@kernel()
def add_leg(
    start: Ints,
    order: Ints,
    target: Ints,
    hops: NDArray[np.uint8],
    links: Floats,
    usable: Floats,
    origin: int,
    amount: float,
    sign: int,
) -> tuple[int, float]:
    """Load a flow from `origin` to where `hops` leads; return the busiest link and its utilization."""
    n = hops.size
    flow, queue = np.zeros(n), np.empty(n, np.int32)
    touched, load = np.empty(links.size, np.int32), np.zeros(links.size)
    found = add_flow(start, order, target, hops, origin, amount, flow, queue, touched, load)
    link, busiest = -1, 0.0
    for i in range(found):
        at = touched[i]
        links[at] += sign * load[at] / usable[at]
        if links[at] > busiest:
            link, busiest = at, links[at]
    return link, busiest


__all__ = ["add_leg", "add_placement"]
