"""Where ECMP sends flows in a network of any form, in tables for compiled code.

For every switch u and destination v: the links on which u sends what is for v, evenly (`nexts`); and the
shares in which what u sends arrives on the links into v (`arrivals`). For groups of switches with the
same neighbours, as the ToRs of a container are, also one hop further: the links by which what the group
sends leaves its neighbours (`leaving`), and by which what it gets comes to them (`coming`).

All of these repeat a lot: most destinations look alike from most switches. So every switch or group has a
short list of distinct sets, and a table says which one is meant. Set 0 of every list is empty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from controller.engine.paths import UNREACHABLE, Hops, hop_counts
from controller.engine.topology import Floats, Ints, Topology

Numbers = NDArray[np.uint16]

MOST_SHARES = 8_000_000
"""Shares of arrivals that are kept, 96 MB; a switch whose turn comes later has none: then more switches are
looked at one by one, and the costs are the same."""

WIDEST = 256
"""Most links one hop beyond a group's neighbours; a group with more is not looked at so far."""


class Sets(NamedTuple):
    """Sets per switch or group: set i of owner u is number `first[u] + i`, and has entries from `start` on.

    `by_owner[u, v]` says which set of u goes with switch v, `by_other[v, u]` the same the other way round.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    links: Ints
    shares: Floats
    by_owner: Numbers
    by_other: Numbers


class Routes(NamedTuple):
    """All of it, hops to (row) from (column), and the group of each switch (-1: none that is looked at)."""

    hops: Hops
    nexts: Sets
    arrivals: Sets
    groups: Ints
    leaving: Sets
    coming: Sets


def routes_of(topology: Topology) -> Routes:
    """Compute the tables of a network; memory grows with the square of the switches (9 bytes each)."""
    hops = hop_counts(*topology.in_links, topology.source, topology.living)
    first, ends, links, of = next_sets(*topology.out_links, topology.target, hops)
    shares = np.repeat(1.0 / np.maximum(np.diff(ends), 1), np.diff(ends))
    nexts = _sets(first, ends, links, shares, of)
    (start, order), (in_start, in_order), target = topology.out_links, topology.in_links, topology.target
    to = nexts.by_other
    arrivals = _sets(*arrival_shares(in_start, in_order, target, hops, first, ends, links, to, MOST_SHARES))
    groups, members = _twins(topology)
    leaving = _sets(*leaving_shares(start, order, target, hops, first, ends, links, to, groups, members))
    into = (in_start, in_order, topology.source, target)
    coming = _sets(*coming_shares(*into, hops, first, ends, links, to, groups, members))
    return Routes(hops, nexts, arrivals, groups, leaving, coming)


def _sets(
    first: NDArray[np.int64], ends: NDArray[np.int64], links: Ints, shares: Floats, of: Numbers
) -> Sets:
    return Sets(first, ends, links, shares, of, np.ascontiguousarray(of.T))


def _twins(topology: Topology) -> tuple[Ints, Ints]:
    """Return the group of every switch, -1 for none, and one member of each group."""
    starts, order = topology.out_links
    in_starts, in_order = topology.in_links
    inner = np.diff(starts) + np.diff(in_starts)
    found: dict[tuple[bytes, bytes], int] = {}
    members: list[int] = []
    groups = np.full(topology.switch_count, -1, np.int32)
    for switch in np.flatnonzero(topology.living).tolist():
        to = np.sort(topology.target[order[starts[switch] : starts[switch + 1]]])
        by = np.sort(topology.source[in_order[in_starts[switch] : in_starts[switch + 1]]])
        if max(inner[to].sum(initial=0), inner[by].sum(initial=0)) > 2 * WIDEST:
            continue
        key = (to.tobytes(), by.tobytes())
        if key not in found:
            found[key] = len(members)
            members.append(switch)
        groups[switch] = found[key]
    return groups, np.array(members, np.int32)


@njit(cache=True)
def next_sets(
    start: Ints, order: Ints, target: Ints, hops: Hops
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ints, Numbers]:
    """Return first, start and links of `Sets`, and which set of u leads to v."""
    n = hops.shape[0]
    of = np.zeros((n, n), np.uint16)
    first, ends, links = np.zeros(n + 1, np.int64), np.zeros(16, np.int64), np.empty(64, np.int32)
    count, used = 0, 0
    table, found = hash_table(n), np.empty(order.size + 1, np.int32)
    slots = table.size
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
                    links[used : used + size] = found[:size]
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


@njit(cache=True)
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
    table, position, ids = (
        hash_table(n),
        np.empty(target.size, np.int32),
        np.empty(target.size + 4 * WIDEST, np.int32),
    )
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
            for j in range(width):
                ids[j] = in_order[in_start[v] + j]
            number, links, shares, count, used = keep(
                rows[u], ids[:width], table, first[v], ends, links, shares, count, used
            )
            of[v, u] = number
    first[n] = count
    return first, ends[: count + 1].copy(), links[:used].copy(), shares[:used].copy(), of


@njit(cache=True)
def leaving_shares(
    start: Ints,
    order: Ints,
    target: Ints,
    hops: Hops,
    next_first: NDArray[np.int64],
    next_start: NDArray[np.int64],
    next_links: Ints,
    next_to: Numbers,
    groups: Ints,
    members: Ints,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ints, Floats, Numbers]:
    """Return `Sets` per group: the shares of what it sends to v on the links out of its neighbours."""
    n = hops.shape[0]
    of = np.zeros((members.size, n), np.uint16)
    first, ends = np.zeros(members.size + 1, np.int64), np.zeros(16, np.int64)
    links, shares, count, used = np.empty(64, np.int32), np.empty(64), 0, 0
    table, position, ids = (
        hash_table(n),
        np.empty(target.size, np.int32),
        np.empty(target.size + 4 * WIDEST, np.int32),
    )
    for group in range(members.size):
        x = members[group]
        first[group] = count
        table[:] = -1
        ends = grown(ends, count + n + 2)
        ends[count] = used
        count += 1
        ends[count] = used
        width = 0
        for i in range(start[x], start[x + 1]):
            w = target[order[i]]
            for j in range(start[w], start[w + 1]):
                position[order[j]], ids[width] = width, order[j]
                width += 1
        row = np.zeros(width)
        for v in range(n):
            if groups[v] == group or hops[v, x] == UNREACHABLE:
                continue
            row[:] = 0.0
            number = next_first[x] + next_to[v, x]
            part = 1.0 / (next_start[number + 1] - next_start[number])
            for i in range(next_start[number], next_start[number + 1]):
                w = target[next_links[i]]
                if w != v:
                    then = next_first[w] + next_to[v, w]
                    for j in range(next_start[then], next_start[then + 1]):
                        row[position[next_links[j]]] += part / (next_start[then + 1] - next_start[then])
            of[group, v], links, shares, count, used = keep(
                row, ids[:width], table, first[group], ends, links, shares, count, used
            )
    first[members.size] = count
    return first, ends[: count + 1].copy(), links[:used].copy(), shares[:used].copy(), of


@njit(cache=True)
def coming_shares(
    in_start: Ints,
    in_order: Ints,
    source: Ints,
    target: Ints,
    hops: Hops,
    next_first: NDArray[np.int64],
    next_start: NDArray[np.int64],
    next_links: Ints,
    next_to: Numbers,
    groups: Ints,
    members: Ints,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ints, Floats, Numbers]:
    """Return `Sets` per group: the shares of what u sends to it on the links into its neighbours."""
    n = hops.shape[0]
    of = np.zeros((members.size, n), np.uint16)
    first, ends = np.zeros(members.size + 1, np.int64), np.zeros(16, np.int64)
    links, shares, count, used = np.empty(64, np.int32), np.empty(64), 0, 0
    table, position, ids = (
        hash_table(n),
        np.empty(target.size, np.int32),
        np.empty(target.size + 4 * WIDEST, np.int32),
    )
    queue, counts = np.empty(n, np.int32), np.empty(UNREACHABLE + 2, np.int64)
    for group in range(members.size):
        v = members[group]
        first[group] = count
        table[:] = -1
        ends = grown(ends, count + n + 2)
        ends[count] = used
        count += 1
        ends[count] = used
        width = 0
        for i in range(in_start[v], in_start[v + 1]):
            w = source[in_order[i]]
            for j in range(in_start[w], in_start[w + 1]):
                position[in_order[j]], ids[width] = width, in_order[j]
                width += 1
        by_hops(hops[v], counts, queue)
        rows = np.zeros((n, width))
        for i in range(n):
            u = queue[i]
            if hops[v, u] == UNREACHABLE:
                break
            if hops[v, u] < 2:
                continue
            number = next_first[u] + next_to[v, u]
            part = 1.0 / (next_start[number + 1] - next_start[number])
            for j in range(next_start[number], next_start[number + 1]):
                w = target[next_links[j]]
                if hops[v, w] == 1:
                    rows[u, position[next_links[j]]] += part
                else:
                    for k in range(width):
                        rows[u, k] += rows[w, k] * part
            if groups[u] != group:
                of[group, u], links, shares, count, used = keep(
                    rows[u], ids[:width], table, first[group], ends, links, shares, count, used
                )
    first[members.size] = count
    return first, ends[: count + 1].copy(), links[:used].copy(), shares[:used].copy(), of


@njit(cache=True)
def hash_table(n: int) -> NDArray[np.int64]:
    """Return a table of a power of two with room for n entries."""
    slots = 1
    while slots < 2 * n + 2:
        slots *= 2
    return np.full(slots, -1, np.int64)


@njit(cache=True)
def keep(
    row: Floats,
    ids: Ints,
    table: NDArray[np.int64],
    first: int,
    ends: NDArray[np.int64],
    links: Ints,
    shares: Floats,
    count: int,
    used: int,
) -> tuple[int, Ints, Floats, int, int]:
    """Return the number of the set of these shares of the links `ids`, among those from `first` on.

    A set that is new is added at the end; `ends` must have room for its end.
    """
    mark, size = np.uint64(14695981039346656037), 0
    for j in range(row.size):
        if row[j] > 0:
            size += 1
            mark = (mark ^ np.uint64(ids[j] + 1)) * np.uint64(1099511628211)
            mark = (mark ^ np.uint64(np.int64(row[j] * 1e15))) * np.uint64(1099511628211)
    if size == 0:
        return 0, links, shares, count, used
    slot = np.int64(mark >> np.uint64(20)) & (table.size - 1)
    while table[slot] >= 0:
        number = table[slot]
        begin, end = ends[first + number], ends[first + number + 1]
        same, at = end - begin == size, begin
        for j in range(row.size):
            if not same:
                break
            if row[j] > 0:
                same = links[at] == ids[j] and shares[at] == row[j]
                at += 1
        if same:
            return number, links, shares, count, used
        slot = (slot + 1) & (table.size - 1)
    number = count - first
    table[slot] = number
    links, shares = grown32(links, used + size), grown64(shares, used + size)
    for j in range(row.size):
        if row[j] > 0:
            links[used], shares[used] = ids[j], row[j]
            used += 1
    ends[count + 1] = used
    return number, links, shares, count + 1, used


@njit(cache=True)
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


@njit(cache=True)
def grown(array: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size), np.int64)
    longer[: array.size] = array
    return longer


@njit(cache=True)
def grown32(array: Ints, size: int) -> Ints:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size), np.int32)
    longer[: array.size] = array
    return longer


@njit(cache=True)
def grown64(array: Floats, size: int) -> Floats:
    """Return the array, or a longer copy of it where it is shorter than that."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size))
    longer[: array.size] = array
    return longer


__all__ = ["Routes", "Sets", "routes_of"]
