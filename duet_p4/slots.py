"""Slot tables: which member of a group owns which slot.

An ECMP group is a table of slots; a flow's hash picks a slot, the slot names a member. Replicating
a member over several slots gives weights (WCMP). Rewriting only the slots that must change gives
resilient hashing: when a DIP leaves, only its own flows move.

Every function here is deterministic, so two muxes that start from the same table and see the same
change hold the same table afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import gcd

SLOTS_PER_MEMBER = 8
"""Slots per member by default: 512 DIPs x 8 slots fill an ECMP table of 4096."""

_powers_of_two = False


def use_powers_of_two(use: bool) -> None:
    """Have this process's groups get a power of two of slots, for switches that cannot divide, or not.

    Shares are then exact to one slot only.
    """
    global _powers_of_two
    _powers_of_two = use


def is_usable(count: int) -> bool:
    """Whether a group may have so many slots."""
    return not _powers_of_two or count.bit_count() == 1


def default_count(weights: Sequence[int]) -> int:
    """Return how many slots a group of these weights gets.

    At most `SLOTS_PER_MEMBER` per member, and a multiple of the reduced weight sum where that
    fits, so that the shares are exact; or the largest power of two that this allows (`use_powers_of_two`).
    """
    _check(weights)
    divisor = gcd(*weights)
    total = sum(weights) // divisor
    limit = SLOTS_PER_MEMBER * sum(1 for weight in weights if weight)
    if _powers_of_two:
        return _power_of_two(limit)
    return limit // total * total if total <= limit else limit


def build(weights: Sequence[int], count: int | None = None) -> list[int]:
    """Return a fresh slot table: `count` owners, each member's share as close to its weight as can be.

    Raises ValueError where no weight is positive, or `count` is below the number of members that
    have a weight (one of them would get nothing).
    """
    _check(weights)
    if count is None:
        count = default_count(weights)
    served = [member for member, weight in enumerate(weights) if weight]
    if count < len(served):
        raise ValueError(f"{count} slots cannot hold {len(served)} members")
    if count % len(served) == 0 and len({weights[member] for member in served}) == 1:
        return served * (count // len(served))  # What `_fill` gives, in a hundredth of the time.
    return _fill([None] * count, weights)


def update(owners: Sequence[int | None], weights: Sequence[int], *, rebalance: bool) -> list[int]:
    """Return the table after a change of members; `None` marks a slot whose owner left.

    Without `rebalance` only orphaned slots, and those of members of weight 0, get a new owner. With
    it, members above their share also give slots to members below theirs, and no more than needed.
    """
    _check(weights)
    table = [owner if owner is not None and weights[owner] else None for owner in owners]
    if rebalance:
        quota = _quotas(weights, len(table))
        held = [0] * len(weights)
        for slot in range(len(table)):
            owner = table[slot]
            if owner is None:
                continue
            if held[owner] == quota[owner]:
                table[slot] = None
            else:
                held[owner] += 1
    return _fill(table, weights)


def widened(owners: Sequence[int | None], weights: Sequence[int]) -> list[int | None]:
    """Return the table, repeated where it has less than half the slots that these weights would get.

    A hash picks the same owner from a repeated table as it did before: what is a remainder modulo a
    multiple of the old count is one modulo the old count, too. So no flow moves.
    """
    _check(weights)
    limit = SLOTS_PER_MEMBER * sum(1 for weight in weights if weight)
    if 2 * len(owners) >= limit:
        return [*owners]
    times = limit // len(owners)
    return [*owners] * (_power_of_two(times) if _powers_of_two else times)


def _power_of_two(limit: int) -> int:
    """Return the largest power of two that is at most `limit`."""
    return 1 << limit.bit_length() - 1


def _fill(table: list[int | None], weights: Sequence[int]) -> list[int]:
    """Give each free slot to the member furthest below its share; ties go to the lower index."""
    held = [0] * len(weights)
    for owner in table:
        if owner is not None:
            held[owner] += 1
    quota = _quotas(weights, len(table))
    # The largest unmet fraction of the quota first: this also interleaves the members.
    neediest = [((held[m] - quota[m]) / weights[m], m) for m in range(len(weights)) if weights[m]]
    heapq.heapify(neediest)
    filled: list[int] = []
    for owner in table:
        if owner is None:
            owner = neediest[0][1]
            held[owner] += 1
            heapq.heapreplace(neediest, ((held[owner] - quota[owner]) / weights[owner], owner))
        filled.append(owner)
    return filled


def _quotas(weights: Sequence[int], count: int) -> list[int]:
    """Split `count` by weight: largest remainders, but at least one slot for every positive weight."""
    total = sum(weights)
    quotas = [count * weight // total for weight in weights]
    by_remainder = sorted(
        (m for m in range(len(weights)) if weights[m]), key=lambda m: (-(count * weights[m] % total), m)
    )
    for member in by_remainder[: count - sum(quotas)]:
        quotas[member] += 1
    for member in by_remainder:
        if quotas[member] == 0:
            richest = max(by_remainder, key=lambda m: (quotas[m], -m))
            if quotas[richest] > 1:
                quotas[richest] -= 1
                quotas[member] = 1
    return quotas


def _check(weights: Sequence[int]) -> None:
    for weight in weights:
        if weight < 0:
            raise ValueError(f"weight {weight} is negative")
    if not any(weights):
        raise ValueError("no member has a positive weight")
