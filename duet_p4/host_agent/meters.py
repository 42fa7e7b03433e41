"""Which meter counts which VIP's packets on which DIP.

A meter outlives its VIP for a while, as flows do, and then is given to another. Whose it is stands beside
it in the kernel, so that an agent that starts goes on with its predecessor's.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address
from itertools import islice

from duet_p4.allocation import TableFullError
from duet_p4.bpf import Map

REST_S = 900.0
"""How long a meter stays its VIP's after that has gone from the DIP."""

Metered = tuple[IPv4Address, IPv4Address]
"""A VIP and a DIP."""

_INDEX = struct.Struct("=I")
_PAIR = struct.Struct("=4s4s")


class Meters:
    """The meters of a server, by VIP and DIP."""

    def __init__(self, names: Map, counts: Map, clock: Callable[[], float] = time.monotonic) -> None:
        """Take over those that `names` (VIP and DIP of each) has; `counts` are the meters themselves."""
        self._names = names
        self._counts = counts
        self._clock = clock
        self._size = names.max_entries
        pairs = enumerate(_PAIR.iter_unpack(names.read(0, self._size)))
        self.held: dict[Metered, int] = {
            (IPv4Address(vip), IPv4Address(dip)): index for index, (vip, dip) in pairs if any(vip)
        }
        self._owners = {index: pair for pair, index in self.held.items()}
        self._free = deque(index for index in range(self._size) if index not in self._owners)
        self._departed: dict[Metered, float] = dict.fromkeys(self.held, clock())

    def plan(self, wanted: Collection[Metered]) -> Mapping[Metered, int]:
        """Return a meter for each of `wanted`, without giving it yet. Raises TableFullError."""
        planned = {pair: self.held[pair] for pair in wanted if pair in self.held}
        new = [pair for pair in wanted if pair not in planned]
        free = list(islice(self._free, len(new)))
        if len(free) < len(new):
            now = self._clock()
            rested = [(since, pair) for pair, since in self._departed.items() if now - since >= REST_S]
            free += [self.held[pair] for _, pair in sorted(rested) if pair not in planned]
        if len(free) < len(new):
            raise TableFullError("meters", len(self.held), len(new), self._size)
        return planned | dict(zip(new, free, strict=False))

    def commit(self, planned: Mapping[Metered, int], gone: Collection[Metered]) -> None:
        """Give meters as planned; those of pairs that are `gone` begin to rest."""
        given = {pair: index for pair, index in planned.items() if self.held.get(pair) != index}
        self._counts.update_batch(
            (_INDEX.pack(index), bytes(self._counts.value_size)) for index in given.values()
        )
        self._names.update_batch(
            (_INDEX.pack(index), _PAIR.pack(vip.packed, dip.packed)) for (vip, dip), index in given.items()
        )
        for pair, index in given.items():
            before = self._owners.get(index)
            if before is None:
                self._free.popleft()
            else:
                del self.held[before]
                self._departed.pop(before, None)
            self.held[pair], self._owners[index] = index, pair
        now = self._clock()
        for pair in planned:
            self._departed.pop(pair, None)
        for pair in gone:
            if pair not in planned:
                self._departed.setdefault(pair, now)
