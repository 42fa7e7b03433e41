"""Counters are written while packets are counted."""

from __future__ import annotations

import numpy as np

from duet_p4.xdp_switch.counters import Counters, rows

CELLS = 4


def counters() -> tuple[Counters, np.ndarray]:
    """Counters, and the cells that the program counts in: by CPU, cell, and packets or bytes."""
    memory = memoryview(bytearray(rows() * CELLS * 16))
    return Counters(memory), np.frombuffer(memory, np.uint64).reshape(-1, CELLS, 2)


def test_a_packet_that_is_counted_while_a_counter_is_set_is_not_lost() -> None:
    held, cells = counters()
    cells[:, 1] += np.array([1, 60], np.uint64)
    loaded = cells[0, 1].copy()
    held.write(0, [(0, 0), (7, 100)])
    # The program has read the cell before, and writes it only now.
    cells[0, 1] = loaded + np.array([1, 60], np.uint64)
    assert held.read(0, 3) == [(0, 0), (8, 160), (0, 0)]


def test_a_cell_that_is_reset_counts_from_nothing() -> None:
    held, cells = counters()
    cells[:, 2] = 5
    held.add(1, [(1, 2), (3, 4)])
    assert held.read(1, 1) == [(1, 2)]
    held.reset(np.array([2]))
    assert held.read(2, 1) == [(0, 0)]
    cells[0, 2] += np.uint64(1)
    assert held.read(2, 1) == [(1, 1)]
