"""Sees that a network is a FatTree, so that it gets the ledger that uses its symmetry."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from controller.engine.topology import FatTreeShape, Topology


def recognise(topology: Topology) -> Topology:
    """Return a network that is a FatTree in the order and with the shape of one; any other as it is.

    It is one if Cores are the switches of no container, the Internet enters at all of them, every
    container has the same number of ToRs (linked to all its Aggs and nothing else), Aggs of a plane are
    linked to the same Cores, as many in each plane, and links of a tier have one capacity, both ways.
    """
    if topology.shape is not None or topology.down:
        return topology
    found = _planes(topology)
    if found is None:
        return topology
    shape, order = found
    canonical = Topology.fat_tree(shape, routes=topology.routes, headroom=topology.headroom)
    return replace(
        canonical,
        names=tuple(topology.names[i] for i in order),
        tables=topology.tables[order],
        container=topology.container[order],
    )


def _planes(topology: Topology) -> tuple[FatTreeShape, list[int]] | None:
    """Return the shape and the order of the switches; None where something does not fit."""
    ends = list(zip(topology.source.tolist(), topology.target.tolist(), strict=True))
    capacity = dict(zip(ends, topology.capacity.tolist(), strict=True))
    if len(capacity) != len(ends) or any(capacity.get((v, u)) != bps for (u, v), bps in capacity.items()):
        return None
    peers: dict[int, set[int]] = defaultdict(set)
    for u, v in ends:
        peers[u].add(v)
    cores = set(np.flatnonzero(topology.container < 0).tolist())
    if cores != set(topology.entries.tolist()) or len(topology.entries) != len(cores):
        return None
    boxes: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for switch, container in enumerate(topology.container.tolist()):
        if container >= 0:
            boxes[container][bool(peers[switch] & cores)].append(switch)
    if not cores or not boxes:
        return None
    tors, aggs = next(iter(boxes.values()))
    planes = sorted({frozenset(peers[agg] & cores) for agg in aggs}, key=lambda plane: sorted(plane))
    if not tors or len(planes) != len(aggs) or sum(map(len, planes)) != len(set().union(*planes)):
        return None
    if set().union(*planes) != cores or len({len(plane) for plane in planes}) != 1:
        return None
    plane_of = {plane: number for number, plane in enumerate(planes)}
    ordered: list[list[int]] = []
    for own_tors, own_aggs in boxes.values():
        by_plane = {plane_of.get(frozenset(peers[agg] & cores), -1): agg for agg in own_aggs}
        if len(own_tors) != len(tors) or len(own_aggs) != len(aggs) or set(by_plane) != set(range(len(aggs))):
            return None
        if any(peers[tor] != set(own_aggs) for tor in own_tors):
            return None
        if any(peers[agg] - cores != set(own_tors) for agg in own_aggs):
            return None
        ordered.append([by_plane[plane] for plane in range(len(aggs))])
    if any(len(peers[core]) != len(boxes) for core in cores):
        return None
    upper = {bps for (u, v), bps in capacity.items() if u in cores or v in cores}
    lower = {bps for (u, v), bps in capacity.items() if u not in cores and v not in cores}
    if len(upper) != 1 or len(lower) != 1:
        return None
    shape = FatTreeShape(len(boxes), len(tors), len(aggs), len(planes[0]), lower.pop(), upper.pop())
    order = [tor for own_tors, _ in boxes.values() for tor in own_tors]
    order += [agg for own_aggs in ordered for agg in own_aggs]
    order += [core for plane in planes for core in sorted(plane)]
    return shape, order


__all__ = ["recognise"]
