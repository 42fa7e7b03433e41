"""The kernel's ticks, by which programs tell the time (`include/clock.h`)."""

from __future__ import annotations

import struct
import time

_MONOTONIC_COARSE = 6
"""CLOCK_MONOTONIC_COARSE, whose resolution is a tick; Python's `time` does not name it."""

_TICK_NS = round(time.clock_getres(_MONOTONIC_COARSE) * 1e9)
_FIRST_TICK = 2**32 - 300 * round(1e9 / _TICK_NS)
"""The kernel begins to count 300 seconds before 32 bits overflow, so that nobody relies on their width."""

CONSTANTS = {"tick_ns": struct.pack("=Q", _TICK_NS), "first_tick": struct.pack("=Q", _FIRST_TICK)}
"""What a program that includes clock.h is loaded with."""


def jiffies() -> int:
    """Return the kernel's count of ticks, as far as CLOCK_MONOTONIC tells."""
    return _FIRST_TICK + time.clock_gettime_ns(time.CLOCK_MONOTONIC) // _TICK_NS
