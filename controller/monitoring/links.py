"""How much travels on each link, from the counters of the ports at its ends."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from controller.inventory import Inventory
from duet_p4.api.mux import MuxStatus
from duet_p4.model import Model

_LEAST_S = 0.2


class LinkState(Model):
    """A link between two muxes.

    `up` says whether both ends that answer have a BGP session over it; null where no end answers. `bps` is
    what travels from the first end to the second, and back, in bit/s since the look before the last.
    """

    ends: tuple[str, str]
    capacity_bps: float | None = None
    up: bool | None = None
    bps: tuple[float, float] = (0.0, 0.0)


class _Rates(NamedTuple):
    """What a port receives and sends, in bit/s."""

    received: float
    sent: float


class LinkLoads:
    """Turns the counters of ports into the load of links."""

    def __init__(self, inventory: Inventory) -> None:
        self.adopt(inventory)
        self._statuses: Mapping[str, MuxStatus] = {}
        self._counts: dict[tuple[str, int], tuple[float, int, int]] = {}
        self._rates: dict[tuple[str, int], _Rates] = {}

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory."""
        self._links: list[tuple[tuple[str, str], float | None]] = [
            (link.ends, link.capacity_bps) for link in inventory.links
        ]
        self._links += [((smux.switch, smux.name), None) for smux in inventory.smuxes]

    def note(self, statuses: Mapping[str, MuxStatus], now: float | None = None) -> None:
        """Take in what muxes say at a time (monotonic); one that is not among them says nothing."""
        now = time.monotonic() if now is None else now
        self._statuses = statuses
        seen = set()
        for name, status in statuses.items():
            for port in status.ports:
                key = (name, port.number)
                seen.add(key)
                before = self._counts.get(key)
                if before is not None and now - before[0] < _LEAST_S:
                    continue
                self._counts[key] = (now, port.received_bytes, port.sent_bytes)
                if before is None or port.received_bytes < before[1] or port.sent_bytes < before[2]:
                    self._rates.pop(key, None)  # A counter that begins anew counts from zero now.
                    continue
                seconds = now - before[0]
                self._rates[key] = _Rates(
                    (port.received_bytes - before[1]) * 8 / seconds,
                    (port.sent_bytes - before[2]) * 8 / seconds,
                )
        for key in self._counts.keys() - seen:
            del self._counts[key]
            self._rates.pop(key, None)

    def links(self) -> list[LinkState]:
        """Return every link between switches, and those to SMuxes."""
        return [self._link(ends, capacity) for ends, capacity in self._links]

    def _link(self, ends: tuple[str, str], capacity: float | None) -> LinkState:
        first, second = ends
        near, far = self._towards(first, second), self._towards(second, first)
        told = [
            session.established
            for one, other in (ends, ends[::-1])
            if one in self._statuses
            for session in self._statuses[one].sessions
            if session.name == other
        ]
        return LinkState(
            ends=ends,
            capacity_bps=capacity,
            up=all(told) if told else None,
            bps=(max(near.sent, far.received), max(far.sent, near.received)),
        )

    def _towards(self, name: str, other: str) -> _Rates:
        """Return the rates of a mux's port to another."""
        status = self._statuses.get(name)
        ports = self._ports_to(status, other) if status else ()
        found = [self._rates[name, number] for number in ports if (name, number) in self._rates]
        return _Rates(sum(r.received for r in found), sum(r.sent for r in found))

    @staticmethod
    def _ports_to(status: MuxStatus, other: str) -> Iterable[int]:
        addresses = {session.neighbor for session in status.sessions if session.name == other}
        return [port.number for port in status.ports if port.peer in addresses and port.peer is not None]
