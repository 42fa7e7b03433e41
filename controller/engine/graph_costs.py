"""Costs in a network of any form: bounds for all switches at once, and what one switch costs exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.ledger import TOUCHED
from controller.engine.paths import Hops
from controller.engine.routes import Numbers
from controller.engine.topology import Floats, Ints


class Work(NamedTuple):
    """Scratch of `walk`. `load` (per link) and `flow` (per switch) are zero, `heads` -1 between walks."""

    load: Floats
    touched: Ints
    flow: Floats
    queue: Ints
    following: Ints
    heads: Ints


def scratch(switches: int, links: int) -> Work:
    """Return the scratch for a network of that size."""
    return Work(
        np.zeros(links),
        np.empty(links, np.int32),
        np.zeros(switches),
        np.empty(switches, np.int32),
        np.empty(switches, np.int32),
        np.full(256, -1, np.int32),
    )


@kernel()
def lower_bounds(
    source: Ints,
    target: Ints,
    usable: Floats,
    links: Floats,
    next_first: NDArray[np.int64],
    next_start: NDArray[np.int64],
    next_links: Ints,
    next_of: Numbers,
    next_to: Numbers,
    in_first: NDArray[np.int64],
    in_start: NDArray[np.int64],
    in_links: Ints,
    in_shares: Floats,
    in_of: Numbers,
    in_from: Numbers,
    from_internet: Floats,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
    bounds: Floats,
) -> None:
    """Raise `bounds` to the busiest of the first and last links of all flows: exact there, for every switch.

    Looked at are the links out of the sources and into the DIPs' switches, each by its own flow, and the
    links into and out of the candidate, by all flows together. `from_internet` is the share of the
    Internet's traffic that each link brings to its own end when the VIP is there.
    """
    n = bounds.size
    least = TOUCHED * (sent.sum() + internet + received.sum())
    into, out = from_internet * internet, np.zeros(links.size)
    for i in range(sources.size):
        x, amount = sources[i], sent[i]
        if not amount > least:
            continue
        first = next_first[x]
        worst = np.zeros(next_first[x + 1] - first)
        for number in range(worst.size):
            begin, end = next_start[first + number], next_start[first + number + 1]
            for j in range(begin, end):
                link = next_links[j]
                worst[number] = max(worst[number], links[link] + amount / (end - begin) / usable[link])
        for s in range(n):
            bounds[s] = max(bounds[s], worst[next_of[x, s]])
            number = in_first[s] + in_from[x, s]
            for j in range(in_start[number], in_start[number + 1]):
                into[in_links[j]] += amount * in_shares[j]
    for i in range(dips.size):
        d, amount = dips[i], received[i]
        if not amount > least:
            continue
        first = in_first[d]
        worst = np.zeros(in_first[d + 1] - first)
        for number in range(worst.size):
            for j in range(in_start[first + number], in_start[first + number + 1]):
                link = in_links[j]
                if amount * in_shares[j] > least:
                    worst[number] = max(worst[number], links[link] + amount * in_shares[j] / usable[link])
        for s in range(n):
            bounds[s] = max(bounds[s], worst[in_of[d, s]])
            number = next_first[s] + next_to[d, s]
            begin, end = next_start[number], next_start[number + 1]
            for j in range(begin, end):
                out[next_links[j]] += amount / (end - begin)
    for link in range(links.size):
        if into[link] > least:
            s = target[link]
            bounds[s] = max(bounds[s], links[link] + into[link] / usable[link])
        if out[link] > least:
            s = source[link]
            bounds[s] = max(bounds[s], links[link] + out[link] / usable[link])


@kernel()
def walk(
    target: Ints,
    usable: Floats,
    links: Floats,
    hops: Hops,
    next_first: NDArray[np.int64],
    next_start: NDArray[np.int64],
    next_links: Ints,
    next_to: Numbers,
    entries: Ints,
    load: Floats,
    touched: Ints,
    flow: Floats,
    queue: Ints,
    following: Ints,
    heads: Ints,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
    switch: int,
    limit: float,
    sign: int,
) -> tuple[float, int]:
    """Send all of a VIP's flows to `switch` and on; return the utilization of the busiest link, and it.

    With `sign` 0 nothing is loaded, and the walk ends where a link is above `limit`. Otherwise the links
    keep the load (1), or lose it (-1).
    """
    least = TOUCHED * (sent.sum() + internet + received.sum())
    busiest, link_at, found = 0.0, -1, 0
    farthest = 0

    # All that comes in takes the same next hops towards the switch: one pass from the farthest on.
    for i in range(sources.size + (entries.size if internet > 0 else 0)):
        if i < sources.size:
            u, amount = sources[i], sent[i]
        else:
            u, amount = entries[i - sources.size], internet / entries.size
        if amount > 0 and u != switch:
            if flow[u] == 0.0:
                far = hops[switch, u]
                following[u], heads[far] = heads[far], u
                farthest = max(farthest, far)
            flow[u] += amount
    far = farthest
    while far > 0:
        u = heads[far]
        heads[far] = -1
        while u >= 0:
            number = next_first[u] + next_to[switch, u]
            begin, end = next_start[number], next_start[number + 1]
            part = flow[u] / max(end - begin, 1)
            flow[u] = 0.0
            for j in range(begin, end):
                link = next_links[j]
                w = target[link]
                if load[link] == 0.0:
                    touched[found] = link
                    found += 1
                load[link] += part
                if load[link] > least:
                    value = links[link] + load[link] / usable[link]
                    if value > busiest:
                        busiest, link_at = value, link
                if w != switch:
                    if flow[w] == 0.0:
                        following[w], heads[far - 1] = heads[far - 1], w
                    flow[w] += part
            u = following[u]
        far -= 1

    # What goes out takes other next hops towards every DIP.
    for i in range(dips.size):
        d = dips[i]
        if busiest > limit and sign == 0:
            break
        if d == switch or not received[i] > 0:
            continue
        flow[switch] = received[i]
        queue[0] = switch
        head, tail = 0, 1
        while head < tail:
            u = queue[head]
            head += 1
            number = next_first[u] + next_to[d, u]
            begin, end = next_start[number], next_start[number + 1]
            part = flow[u] / max(end - begin, 1)
            flow[u] = 0.0
            for j in range(begin, end):
                link = next_links[j]
                w = target[link]
                if load[link] == 0.0:
                    touched[found] = link
                    found += 1
                load[link] += part
                if load[link] > least:
                    value = links[link] + load[link] / usable[link]
                    if value > busiest:
                        busiest, link_at = value, link
                if w != d:
                    if flow[w] == 0.0:
                        queue[tail] = w
                        tail += 1
                    flow[w] += part
    for i in range(found):
        link = touched[i]
        if load[link] > least:
            links[link] += sign * load[link] / usable[link]
        load[link] = 0.0
    return busiest, link_at


__all__ = ["Work", "lower_bounds", "scratch", "walk"]
