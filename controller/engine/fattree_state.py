"""Links of a FatTree with the maxima that costs are made of, in one array that compiled code looks into."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.compiled import kernel
from controller.engine.ledger import TOUCHED
from controller.engine.topology import Floats, Ints

UP = 0
"""Towards the Cores: ToR to Agg, Agg to Core. What a ToR sends goes this way first."""

DOWN = 1
"""From the Cores. What a ToR gets comes this way last."""


class State(NamedTuple):
    """Utilizations of all links, in the order of `Topology.fat_tree`, and their maxima; each UP and DOWN.

    `tor` is by ToR and Agg, `core` by container, Agg, and Core of that Agg. The others are the busiest
    link: of a ToR (`tor_top`), of an Agg and its ToRs (`agg_top`), of an Agg and its Cores (`plane_top`),
    of a container and the Cores (`box_top`), and DOWN from a Core (`core_out`).
    """

    tor: Floats
    core: Floats
    tor_top: Floats
    agg_top: Floats
    plane_top: Floats
    box_top: Floats
    core_out: Floats


class Sums(NamedTuple):
    """A VIP's traffic that goes UP from, and DOWN to, each ToR, each container, and in all; bit/s.

    `tor[UP, t]` is what ToR t sends, `tor[DOWN, t]` what it gets. A load of at most `least` is none.
    """

    tor: Floats
    box: Floats
    all: Floats
    internet: float
    least: float


def state_size(shape: NDArray[np.int64]) -> int:
    """Return how long the array is for containers, ToRs, Aggs and Cores per Agg."""
    containers, tors, aggs, cores = (int(n) for n in shape)
    links = 2 * containers * tors * aggs + 2 * containers * aggs * cores
    return links + 2 * containers * tors + 4 * containers * aggs + 2 * containers + aggs * cores


@kernel()
def look_into(shape: NDArray[np.int64], state: Floats) -> State:
    """Return the parts of the array."""
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    cores = 2 * K * T * A
    tor_top = cores + 2 * K * A * G
    agg_top = tor_top + 2 * K * T
    plane_top = agg_top + 2 * K * A
    box_top = plane_top + 2 * K * A
    core_out = box_top + 2 * K
    return State(
        state[:cores].reshape(2, K * T, A),
        state[cores:tor_top].reshape(2, K, A, G),
        state[tor_top:agg_top].reshape(2, K * T),
        state[agg_top:plane_top].reshape(2, K, A),
        state[plane_top:box_top].reshape(2, K, A),
        state[box_top:core_out].reshape(2, K),
        state[core_out:],
    )


@kernel()
def refresh(shape: NDArray[np.int64], state: Floats) -> None:
    """Find all maxima anew, as is due after loads went down."""
    K, T, A, G = shape[0], shape[1], shape[2], shape[3]  # noqa: N806
    state[2 * K * T * A + 2 * K * A * G :] = 0.0
    tor, core, tor_top, agg_top, plane_top, box_top, core_out = look_into(shape, state)
    for way in range(2):
        for t in range(K * T):
            for a in range(A):
                tor_top[way, t] = max(tor_top[way, t], tor[way, t, a])
                agg_top[way, t // T, a] = max(agg_top[way, t // T, a], tor[way, t, a])
        for k in range(K):
            for a in range(A):
                for g in range(G):
                    plane_top[way, k, a] = max(plane_top[way, k, a], core[way, k, a, g])
                    if way == DOWN:
                        core_out[a * G + g] = max(core_out[a * G + g], core[way, k, a, g])
                box_top[way, k] = max(box_top[way, k], plane_top[way, k, a])


@kernel()
def add_up(
    shape: NDArray[np.int64],
    scratch: Floats,
    sources: Ints,
    sent: Floats,
    internet: float,
    dips: Ints,
    received: Floats,
) -> Sums:
    """Add traffic up. `scratch`, two rows of zeros, holds what is per ToR; `clear` makes them zero again.

    A single source that is no ToR is left out. Raises ValueError for one of several, and for such a DIP.
    """
    T, tors = shape[1], shape[0] * shape[1]  # noqa: N806
    box, total = np.zeros((2, shape[0])), np.zeros(2)
    for i in range(sources.size):
        if sources[i] >= tors:
            if sources.size == 1:
                break
            raise ValueError("one of several sources is on no ToR")
    for i in range(dips.size):
        if dips[i] >= tors:
            raise ValueError("a DIP is on no ToR")
    for i in range(sources.size):
        if sources[i] < tors:
            scratch[UP, sources[i]] += sent[i]
            box[UP, sources[i] // T] += sent[i]
            total[UP] += sent[i]
    for i in range(dips.size):
        scratch[DOWN, dips[i]] += received[i]
        box[DOWN, dips[i] // T] += received[i]
        total[DOWN] += received[i]
    return Sums(scratch, box, total, internet, TOUCHED * (total[UP] + internet + total[DOWN]))


@kernel()
def clear(sums: Sums, sources: Ints, dips: Ints) -> None:
    """Make the scratch of `add_up` zero again."""
    for i in range(sources.size):
        if sources[i] < sums.tor.shape[1]:
            sums.tor[UP, sources[i]] = 0.0
    for i in range(dips.size):
        sums.tor[DOWN, dips[i]] = 0.0


__all__ = ["DOWN", "UP", "State", "Sums", "add_up", "clear", "look_into", "refresh", "state_size"]
