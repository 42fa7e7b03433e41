"""Meters of a running program: two rates, three colours."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from duet_p4 import bpf
from duet_p4.xdp_switch.dataplane import MeterRates

_VALUE = struct.Struct("=IIQ4Q4Q")
_LOCKED = 4
_BILLION = 10**9
_MOST = (1 << 64) - 1


class MeterArray:
    """Meters by index; one that is not configured is always green."""

    def __init__(self, cells: bpf.Map, name: str, size: int) -> None:
        self._cells = cells
        self._name = name
        self.size = size
        self._rates: dict[int, MeterRates] = {}

    def configure(self, index: int, rates: MeterRates | None) -> None:
        """Set the rates of a meter, its buckets full; None takes them away. Raises ValueError."""
        if not 0 <= index < self.size:
            raise ValueError(f"meter {self._name} has cells 0 to {self.size - 1}, not {index}")
        data = bytes(_VALUE.size)
        if rates is not None:
            buckets = [*_bucket(rates.cir, rates.cburst), *_bucket(rates.pir, rates.pburst)]
            data = _VALUE.pack(0, 1, 0, *buckets)
        self._cells.update(index.to_bytes(4, "little"), data, _LOCKED)
        if rates is None:
            self._rates.pop(index, None)
        else:
            self._rates[index] = rates

    def forget(self, indexes: Iterable[int]) -> None:
        """Take the rates of meters away, where they have any."""
        for index in self._rates.keys() & set(indexes):
            self.configure(index, None)

    def read(self, index: int) -> MeterRates | None:
        """Return the rates of a meter, None for one that is not configured."""
        if not 0 <= index < self.size:
            raise ValueError(f"meter {self._name} has cells 0 to {self.size - 1}, not {index}")
        return self._rates.get(index)


def _bucket(rate: int, burst: int) -> tuple[int, int, int, int]:
    """Return rate, room and ns to fill it, and tokens, as `struct bucket` has them."""
    if not 0 <= rate <= _MOST:
        raise ValueError(f"a rate of {rate} a second is out of range")
    room = burst * _BILLION
    if not 0 <= room <= _MOST:
        raise ValueError(f"a burst of {burst} is out of range: at most {_MOST // _BILLION}")
    # Rounded up; and never so long that what it adds would not fit 64 bits.
    fill = min(-(-room // rate) if rate else _MOST, _MOST)
    return rate, room, fill, room
