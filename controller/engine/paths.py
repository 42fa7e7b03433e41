"""ECMP over shortest paths on networks of any size, compiled with numba.

All switches of a path split traffic evenly over their next hops, as in `dense.ecmp_shares`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.topology import Floats, Ints, Topology

UNREACHABLE = 255
"""Hops between switches that have no path; networks of a larger diameter are refused."""

Hops = NDArray[np.uint8]


class Paths:
    """Shortest paths between all switches, without those in `dead`."""

    def __init__(self, topology: Topology, dead: Ints | None = None) -> None:
        """Find the hops between all pairs."""
        self.topology = topology
        self.alive = topology.living.copy()
        if dead is not None:
            self.alive[dead] = False
        self.start, self.order = topology.out_links
        self.hops: Hops = hop_counts(*topology.in_links, topology.source, self.alive)

    def loads(self, matrix: Floats) -> Floats:
        """Return bit/s per link for `matrix[u, v]` bit/s from switch u to v.

        Traffic from, to or between switches that cannot reach each other is dropped.
        """
        loads = np.zeros(self.topology.link_count)
        add_matrix(self.start, self.order, self.topology.target, self.hops, matrix, loads)
        return loads


def hops_to(topology: Topology, switch: int) -> Hops:
    """Return the hops from every switch to one."""
    hops: Hops = np.full(topology.switch_count, UNREACHABLE, np.uint8)
    queue = np.empty(topology.switch_count, np.int32)
    count_hops(*topology.in_links, topology.source, topology.living, switch, hops, queue)
    return hops


@kernel()
def hop_counts(in_start: Ints, in_links: Ints, source: Ints, alive: NDArray[np.bool_]) -> Hops:
    """Return `hops[v, u]`, from u to v."""
    n = alive.size
    hops = np.full((n, n), UNREACHABLE, np.uint8)
    queue = np.empty(n, np.int32)
    for v in range(n):
        if alive[v]:
            count_hops(in_start, in_links, source, alive, v, hops[v], queue)
    return hops


@kernel()
def count_hops(
    in_start: Ints, in_links: Ints, source: Ints, alive: NDArray[np.bool_], v: int, row: Hops, queue: Ints
) -> None:
    """Fill `row`, all unreachable, with the hops to v, by a breadth-first search backwards."""
    row[v] = 0
    queue[0] = v
    head, tail = 0, 1
    while head < tail:
        w = queue[head]
        head += 1
        if row[w] == UNREACHABLE - 1:
            raise ValueError("a path of more than 254 hops")
        for i in range(in_start[w], in_start[w + 1]):
            u = source[in_links[i]]
            if alive[u] and row[u] == UNREACHABLE:
                row[u] = row[w] + 1
                queue[tail] = u
                tail += 1


@kernel()
def add_flow(
    start: Ints,
    links: Ints,
    target: Ints,
    hops: NDArray[np.uint8],
    origin: int,
    amount: float,
    flow: Floats,
    queue: Ints,
    touched: Ints,
    load: Floats,
) -> int:
    """Add a flow from `origin` to the switch that `hops` counts towards to `load`; list the links touched.

    `flow` (zeros, one per switch), `queue` and `touched` are scratch. Returns how many links.
    """
    found = 0
    flow[origin] = amount
    queue[0] = origin
    head, tail = 0, 1
    while head < tail:
        u = queue[head]
        head += 1
        ways = 0
        for i in range(start[u], start[u + 1]):
            if hops[target[links[i]]] + 1 == hops[u]:
                ways += 1
        if ways == 0:
            flow[u] = 0.0
            continue
        part = flow[u] / ways
        flow[u] = 0.0
        for i in range(start[u], start[u + 1]):
            w = target[links[i]]
            if hops[w] + 1 == hops[u]:
                touched[found] = links[i]
                found += 1
                load[links[i]] += part
                if flow[w] == 0.0:
                    queue[tail] = w
                    tail += 1
                flow[w] += part
    return found


@kernel()
def add_matrix(
    start: Ints, links: Ints, target: Ints, hops: NDArray[np.uint8], matrix: Floats, load: Floats
) -> None:
    """Add the flows of a traffic matrix (from, to) to `load`."""
    n = matrix.shape[0]
    flow = np.empty(n)
    order = np.empty(n, np.int32)
    count = np.empty(UNREACHABLE + 2, np.int64)
    for v in range(n):
        row = hops[v]
        count[:] = 0
        for u in range(n):
            flow[u] = matrix[u, v]
            count[UNREACHABLE - row[u] + 1] += 1
        for d in range(1, UNREACHABLE + 2):
            count[d] += count[d - 1]
        for u in range(n):
            slot = UNREACHABLE - row[u]
            order[count[slot]] = u
            count[slot] += 1
        for i in range(n):
            u = order[i]
            if flow[u] == 0.0 or row[u] == UNREACHABLE or row[u] == 0:
                continue
            ways = 0
            for j in range(start[u], start[u + 1]):
                if row[target[links[j]]] + 1 == row[u]:
                    ways += 1
            part = flow[u] / ways
            for j in range(start[u], start[u + 1]):
                w = target[links[j]]
                if row[w] + 1 == row[u]:
                    load[links[j]] += part
                    flow[w] += part


__all__ = ["UNREACHABLE", "Hops", "Paths", "add_flow", "add_matrix", "hop_counts", "hops_to"]
