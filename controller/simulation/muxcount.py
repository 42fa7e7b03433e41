"""How many SMuxes carry a load: evenly divided, or such that the most loaded one can.

All SMuxes announce the same prefixes, so a packet goes to the nearest: under the source's own ToR, else
in its container, else anywhere, evenly over next hops at every switch. The load of the most loaded then
depends on where they stand: evenly over the ToRs, or by what each ToR sends. Loads are bit/s, or
packets/s against the 300 kpps at which an SMux's CPU is full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from controller.engine import Demands, FatTreeShape
from controller.engine.topology import Floats

PACKETS_PER_S = 300_000.0
"""What an SMux forwards at most (stated); 3.6 Gbps are these packets at 1,500 bytes."""


class CountRule(StrEnum):
    """How SMuxes are counted: evenly divided, in bits or packets; or by the most loaded one under
    anycast, where they stand evenly over the ToRs, in proportion to what each ToR sends, or where fewest
    are needed.
    """

    EVEN = "even"
    PACKETS = "packets"
    ANYCAST = "anycast"
    PLACED = "placed"
    BEST = "best"


@dataclass(frozen=True, eq=False)
class Load:
    """What is sent to SMuxes: per source ToR, and from the Internet at the Cores."""

    tors: Floats
    internet: float

    @property
    def total(self) -> float:
        """All of it."""
        return float(self.tors.sum()) + self.internet

    @classmethod
    def of(cls, demands: Demands, amounts: Floats, tors: int) -> Load:
        """Return the load that VIPs cause of which the SMuxes get these amounts."""
        owner = np.repeat(np.arange(demands.vip_count), np.diff(demands.source_start))
        sent = np.bincount(
            demands.source_switch, weights=demands.source_share * amounts[owner], minlength=tors
        )
        return cls(np.asarray(sent[:tors], np.float64), float((demands.internet * amounts).sum()))


def evenly(load: float, capacity: float) -> int:
    """Return how many SMuxes of that capacity carry the load if it divides evenly."""
    return math.ceil(load / capacity * (1 - 1e-12))


def standing(load: Load, count: int, *, by_load: bool) -> NDArray[np.int64]:
    """Return how many of `count` SMuxes stand under each ToR: evenly, or in proportion to what it sends."""
    tors = len(load.tors)
    if not by_load:
        return np.asarray(np.bincount(np.arange(count) * tors // count, minlength=tors), np.int64)
    weight = load.tors + load.internet / tors
    exact = weight / max(weight.sum(), 1e-300) * count
    found: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    most = np.argsort(found - exact, kind="stable")[: count - int(found.sum())]
    found[most] += 1
    return found


def shares(load: Load, at: NDArray[np.int64], shape: FatTreeShape) -> Floats:
    """Return the load of one SMux under each ToR (0 where there is none), by anycast and ECMP."""
    here = (at > 0).reshape(shape.containers, shape.tors)
    sent = load.tors.reshape(shape.containers, shape.tors)
    holders = here.sum(axis=1)
    # What ToRs without an SMux send, to the ToRs of their container that have one.
    inside = np.where(holders > 0, (sent * ~here).sum(axis=1) / np.maximum(holders, 1), 0.0)
    far = load.internet + float(sent[holders == 0].sum())
    boxes = int((holders > 0).sum())
    outside = np.where(holders > 0, far / max(boxes, 1) / np.maximum(holders, 1), 0.0)
    per_tor = np.where(here, sent + inside[:, None] + outside[:, None], 0.0).reshape(-1)
    return np.asarray(per_tor / np.maximum(at, 1), np.float64)


def most_loaded(load: Load, count: int, shape: FatTreeShape, *, by_load: bool = False) -> float:
    """Return the load of the most loaded of `count` SMuxes."""
    return float(shares(load, standing(load, count, by_load=by_load), shape).max())


def needed(load: Load, capacity: float, shape: FatTreeShape, *, by_load: bool = False) -> int:
    """Return for how many SMuxes none gets more than its capacity: found by doubling, then by bisection."""
    least = max(1, evenly(load.total, capacity))
    high = least
    while most_loaded(load, high, shape, by_load=by_load) > capacity * (1 + 1e-9):
        high *= 2
    low = max(least, high // 2) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if most_loaded(load, middle, shape, by_load=by_load) > capacity * (1 + 1e-9):
            low = middle
        else:
            high = middle
    return high


def fewest(load: Load, capacities: Sequence[float], shape: FatTreeShape) -> list[int]:
    """Return for how many SMuxes of each capacity none gets more if they stand under few, well chosen ToRs.

    Tried: the 1, 2, ... ToRs that send most in each container, and one in each of the containers that
    send most.
    """
    sent = load.tors.reshape(shape.containers, shape.tors)
    rank = np.argsort(np.argsort(-sent, axis=1, kind="stable"), axis=1)
    box_rank = np.argsort(np.argsort(-sent.sum(axis=1), kind="stable"))[:, None]
    tried = [rank < m for m in range(1, shape.tors + 1)]
    tried += [(rank < 1) & (box_rank < boxes) for boxes in range(1, shape.containers)]
    loads = []
    for chosen in tried:
        here = chosen.reshape(-1)
        loads.append(shares(load, here.astype(np.int64), shape)[here])
    return [
        min(int(np.ceil(each / capacity * (1 - 1e-12)).clip(1).sum()) for each in loads)
        for capacity in capacities
    ]


def counts(
    demands: Demands, bits: Floats, packet_bits: Floats, capacities: Sequence[float], shape: FatTreeShape
) -> dict[tuple[float, CountRule], int]:
    """Return the SMuxes that carry `bits[vip]`, by capacity (bit/s) and rule. No traffic needs none."""
    if not bits.sum():
        return {(capacity, rule): 0 for capacity in capacities for rule in CountRule}
    load = Load.of(demands, bits, shape.tor_count)
    packets = float((bits / packet_bits).sum())
    best = fewest(load, capacities, shape)
    found = {}
    for number, capacity in enumerate(capacities):
        found[capacity, CountRule.EVEN] = evenly(float(bits.sum()), capacity)
        # A faster SMux forwards more packets in proportion: 10 Gbps are as many full packets.
        found[capacity, CountRule.PACKETS] = evenly(packets, PACKETS_PER_S * capacity / 3.6e9)
        found[capacity, CountRule.ANYCAST] = needed(load, capacity, shape)
        found[capacity, CountRule.PLACED] = needed(load, capacity, shape, by_load=True)
        found[capacity, CountRule.BEST] = best[number]
    return found


__all__ = [
    "PACKETS_PER_S",
    "CountRule",
    "Load",
    "counts",
    "evenly",
    "fewest",
    "most_loaded",
    "needed",
    "shares",
    "standing",
]
