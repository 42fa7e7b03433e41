"""Checks whether a history of reads and writes of one register could have been made by one copy of it.

The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993), with Lowe's memory of
states that were seen before. Histories of different registers are checked apart: linearizability is local.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """A read that returned `value`, or a write of it, between two moments.

    A write of which nobody knows whether it was done has not `ended`: it may be done at any time, or never. A
    read that gave no answer says nothing, and is no part of a history.
    """

    writes: bool
    value: Hashable
    began: float
    ended: float = math.inf


def is_linearizable(history: Sequence[Operation], first: Hashable = None) -> bool:
    """Return whether the operations fit in an order in which each read returns what was written last."""
    read = {operation.value for operation in history if not operation.writes}
    # What may have been written and was never read may as well never have been written.
    told = (op for op in history if op.ended < math.inf or op.value in read)
    operations = sorted(told, key=lambda operation: operation.began)
    certain = sum(1 << i for i, operation in enumerate(operations) if operation.ended < math.inf)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, first)]
    while stack:
        done, value = stack.pop()
        if done & certain == certain:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        # Whatever comes next must have begun before everything else that is left has ended.
        earliest = math.inf
        for index, operation in enumerate(operations):
            if operation.began > earliest:
                break
            if not done >> index & 1:
                earliest = min(earliest, operation.ended)
        following: list[tuple[int, Hashable]] = []
        for index, operation in enumerate(operations):
            if operation.began > earliest:
                break
            if done >> index & 1:
                continue
            if operation.writes:
                following.append((done | 1 << index, operation.value))
            elif operation.value == value:
                # A read that fits may as well be next: it changes nothing.
                following = [(done | 1 << index, value)]
                break
        stack += following
    return False
