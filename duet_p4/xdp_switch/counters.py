"""Counters of a loaded program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.dataplane import Count


def rows() -> int:
    """Return how many rows counters have: the possible CPUs, rounded up to what objects are shipped for."""
    return 1 << (bpf.possible_cpus() - 1).bit_length()


class Counters:
    """An array of counters as the program holds it: a row for each CPU, which only that CPU writes.

    What is written to a counter is kept here, as what it is ahead of what the program counted: so no packet
    that is counted meanwhile is lost.
    """

    def __init__(self, memory: memoryview) -> None:
        self._cells = np.frombuffer(memory, dtype=np.uint64).reshape(rows(), -1, 2)
        self._ahead = np.zeros_like(self._cells[0])

    def read(self, first: int, number: int) -> list[Count]:
        """Return `number` cells from `first` on."""
        cells = slice(first, first + number)
        total = self._cells[:, cells].sum(axis=0) + self._ahead[cells]
        return [(packets, size) for packets, size in total.tolist()]

    def write(self, first: int, counts: Sequence[Count]) -> None:
        """Set cells from `first` on."""
        cells = slice(first, first + len(counts))
        self._ahead[cells] = np.array(counts, dtype=np.uint64) - self._cells[:, cells].sum(axis=0)

    def reset(self, cells: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Set cells to nothing."""
        self._ahead[cells] = np.negative(self._cells[:, cells].sum(axis=0))

    def add(self, first: int, counts: Sequence[Count]) -> None:
        """Count so much more."""
        self._ahead[first : first + len(counts)] += np.array(counts, dtype=np.uint64)
