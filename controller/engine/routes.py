"""Where ECMP sends flows in a network of any form, in tables for compiled code.

For every switch u and destination v: the links on which u sends what is for v, evenly (`next_sets`); and
the shares in which what u sends arrives on the links into v (`arrivals`). Both repeat a lot: most
destinations look alike from most switches. So every switch has a short list of distinct sets, and a
table says which one is meant. Set 0 of every switch is empty: no path, or the switch itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.paths import UNREACHABLE, Hops, hop_counts
from controller.engine.topology import Floats, Ints, Topology

Numbers = NDArray[np.uint16]

MOST_SHARES = 8_000_000
"""Shares of arrivals that are kept, 96 MB; a switch whose turn comes later has none: costs are then looked at
one by one more often, and are the same."""


class Sets(NamedTuple):
    """Sets per switch: set i of switch u is number `first[u] + i`, and has entries from `start` on.

    `by_owner[u, v]` says which set of u goes with v, `by_other[v, u]` the same the other way round.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    links: Ints
    shares: Floats
    by_owner: Numbers
    by_other: Numbers


class Routes(NamedTuple):
    """All of it: hops to (row) from (column), where flows go next, and how they arrive."""

    hops: Hops
    nexts: Sets
    arrivals: Sets


def routes_of(topology: Topology) -> Routes:
    """Compute the tables of a network; memory grows with the square of the switches (9 bytes each)."""
    hops = hop_counts(*topology.in_links, topology.source, topology.living)
    start, order = topology.out_links
    first, ends, links, of = next_sets(start, order, topology.target, hops)
    shares = np.repeat(1.0 / np.maximum(np.diff(ends), 1), np.diff(ends))
    nexts = Sets(first, ends, links, shares, of, np.ascontiguousarray(of.T))
    in_start, in_order = topology.in_links
    first, ends, links, shares, to = arrival_shares(
        in_start,
        in_order,
        topology.target,
        hops,
        nexts.first,
        nexts.start,
        nexts.links,
        nexts.by_other,
        MOST_SHARES,
    )
    return Routes(hops, nexts, Sets(first, ends, links, shares, to, np.ascontiguousarray(to.T)))


@kernel()
def next_sets(
    start: Ints, order: Ints, target: Ints, hops: Hops
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ints, Numbers]:
    """Return first, start and links of `Sets`, and which set of u leads to v."""
    n = hops.shape[0]
    of = np.zeros((n, n), np.uint16)
    first, ends, links = np.zeros(n + 1, np.int64), np.zeros(16, np.int64), np.empty(64, np.int32)
    count, used = 0, 0
    slots = 1
    while slots < 2 * n:
        slots *= 2
    table, found = np.empty(slots, np.int64), np.empty(order.size + 1, np.int32)
    for u in range(n):
        first[u] = count
        table[:] = -1
        ends = grown(ends, count + n + 2)
        ends[count] = used
        count += 1
        for v in range(n):
            if v == u or hops[v, u] == UNREACHABLE:
                continue
            size, mark = 0, np.uint64(14695981039346656037)
            for i in range(start[u], start[u + 1]):
                if hops[v, target[order[i]]] + 1 == hops[v, u]:
                    found[size] = order[i]
                    size += 1
                    mark = (mark ^ np.uint64(order[i] + 1)) * np.uint64(1099511628211)
            slot = np.int64(mark >> np.uint64(20)) & (slots - 1)
            while True:
                number = table[slot]
                if number < 0:
                    table[slot] = number = count - first[u]
                    links = grown32(links, used + size)
                    for i in range(size):
                        links[used + i] = found[i]
                    ends[count] = used
                    count += 1
                    used += size
                    ends[count] = used
                    break
                at = ends[first[u] + number]
                if ends[first[u] + number + 1] - at == size and np.all(links[at : at + size] == found[:size]):
                    break
                slot = (slot + 1) & (slots - 1)
            of[u, v] = number
        ends[count] = used
    first[n] = count
    return first, ends[: count + 1].copy(), links[:used].copy(), of


@kernel()
def arrival_shares(
    in_start: Ints,
    in_order: Ints,
    target: Ints,
    hops: Hops,
    next_first: NDArray[np.int64],
    next_start: NDArray[np.int64],
    next_links: Ints,
    next_to: Numbers,
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ints, Floats, Numbers]:
    """Return first, start, links and shares of `Sets`, and which set of v goes with what u sends."""
    n = hops.shape[0]
    of = np.zeros((n, n), np.uint16)
    first, ends = np.zeros(n + 1, np.int64), np.zeros(16, np.int64)
    links, shares = np.empty(64, np.int32), np.empty(64)
    count, used = 0, 0
    slots = 1
    while slots < 2 * n:
        slots *= 2
    table, position = np.empty(slots, np.int64), np.empty(target.size, np.int32)
    queue, counts = np.empty(n, np.int32), np.empty(UNREACHABLE + 2, np.int64)
    for v in range(n):
        first[v] = count
        table[:] = -1
        ends = grown(ends, count + n + 2)
        ends[count] = used
        count += 1
        ends[count] = used
        if used > most:
            continue
        width = in_start[v + 1] - in_start[v]
        for i in range(width):
            position[in_order[in_start[v] + i]] = i
        by_hops(hops[v], counts, queue)
        rows = np.zeros((n, width))
        for i in range(n):
            u = queue[i]
            if hops[v, u] == UNREACHABLE:
                break
            if u == v:
                continue
            number = next_first[u] + next_to[v, u]
            part = 1.0 / (next_start[number + 1] - next_start[number])
            for j in range(next_start[number], next_start[number + 1]):
                w = target[next_links[j]]
                if w == v:
                    rows[u, position[next_links[j]]] += part
                else:
                    for k in range(width):
                        rows[u, k] += rows[w, k] * part
            mark = np.uint64(14695981039346656037)
            for j in range(width):
                mark = (mark ^ np.uint64(np.int64(rows[u, j] * 1e15))) * np.uint64(1099511628211)
            slot = np.int64(mark >> np.uint64(20)) & (slots - 1)
            while True:
                number = table[slot]
                if number < 0:
                    table[slot] = number = count - first[v]
                    links, shares = grown32(links, used + width), grown64(shares, used + width)
                    for j in range(width):
                        if rows[u, j] > 0:
                            links[used], shares[used] = in_order[in_start[v] + j], rows[u, j]
                            used += 1
                    count += 1
                    ends[count] = used
                    break
                if is_row(
                    rows[u], position, links, shares, ends[first[v] + number], ends[first[v] + number + 1]
                ):
                    break
                slot = (slot + 1) & (slots - 1)
            of[v, u] = number
    first[n] = count
    return first, ends[: count + 1].copy(), links[:used].copy(), shares[:used].copy(), of


@kernel()
def is_row(row: Floats, position: Ints, links: Ints, shares: Floats, begin: int, end: int) -> bool:
    """Whether a row has exactly these shares."""
    size = 0
    for j in range(row.size):
        size += row[j] > 0
    if size != end - begin:
        return False
    same = True
    for i in range(begin, end):
        same = same and row[position[links[i]]] == shares[i]
    return same


@kernel()
def by_hops(hops: Hops, counts: NDArray[np.int64], order: Ints) -> None:
    """List the switches by their hops, the nearest first."""
    counts[:] = 0
    for u in range(hops.size):
        counts[hops[u] + 1] += 1
    for i in range(1, counts.size):
        counts[i] += counts[i - 1]
    for u in range(hops.size):
        order[counts[hops[u]]] = u
        counts[hops[u]] += 1


@kernel()
def grown(array: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size), np.int64)
    for i in range(array.size):
        longer[i] = array[i]
    return longer


@kernel()
def grown32(array: Ints, size: int) -> Ints:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size), np.int32)
    for i in range(array.size):
        longer[i] = array[i]
    return longer


@kernel()
def grown64(array: Floats, size: int) -> Floats:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size))
    for i in range(array.size):
        longer[i] = array[i]
    return longer


__all__ = ["Routes", "Sets", "routes_of"]
