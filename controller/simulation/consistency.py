"""Schemes that keep connections on their DIP, side by side under one churn of one VIP.

Connections arrive as a Poisson process and last heavy-tailed times. DIPs leave and come back, muxes fail
and come back, at random times that are the same for every scheme. A connection is broken once a packet of
it would reach another DIP than its first, while that one lives; those whose own DIP left are lost to all
schemes alike and counted apart. State is what a mux holds at most. Hashes are ideal; state takes no time
to install.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from controller.engine.topology import Floats
from duet_p4 import slots

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

PIN_BYTES, SLOT_BYTES, DIP_BYTES = 20, 4, 8
SILKROAD_BITS = 28
"""Bits per connection in SilkRoad's ConnTable: a 16-bit digest, a 6-bit version, and what packing costs."""


@dataclass(frozen=True)
class Churn:
    """The workload of the comparison; all assumed. Times in seconds."""

    dips: int = 64
    muxes: int = 8
    seconds: float = 600.0
    connections_per_s: float = 200.0
    mean_life_s: float = 30.0
    tail: float = 1.5
    """Exponent of the Lomax distribution of lives."""
    dip_events_per_min: float = 6.0
    """DIPs that leave or come back."""
    away_s: float = 60.0
    """How long a DIP or a mux is away on average."""
    mux_events_per_min: float = 1.0
    detour_s: float = 30.0
    """How long the paper's DUET keeps a VIP on the SMuxes when a DIP is added."""


class Kind(StrEnum):
    """What happens."""

    DIP = "dip"
    MUX = "mux"
    RETURN = "return"


@dataclass(frozen=True)
class Event:
    """DIP or mux `which` changes sides: it leaves, or is back; a RETURN ends a detour."""

    at: float
    kind: Kind
    which: int
    up: bool


@dataclass(frozen=True)
class Kept:
    """What a scheme did: connections, of which `broken` and `lost` with their DIP, state, and imbalance."""

    connections: int
    broken: int
    lost: int
    state_bytes: float
    """The most that any one mux held."""
    imbalance: float
    """Connections on the busiest DIP over the mean, averaged over the events."""


class Scheme(ABC):
    """Where packets go: first ones by `first`, later ones by `later`; `change` is told of events before."""

    name: ClassVar[str]

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        """Start with every DIP and mux alive."""
        self.churn, self.hashes = churn, hashes
        self.alive: Flags = np.ones(churn.dips, bool)
        self.muxes: Flags = np.ones(churn.muxes, bool)
        self.rng = np.random.default_rng(seed)
        self.dip: Ids = np.full(len(hashes), -1)
        """The DIP each connection began on."""
        self.state = 0.0

    @abstractmethod
    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the DIPs of new connections; `load` is the connections on each DIP."""

    @abstractmethod
    def later(self, ids: Ids) -> Ids:
        """Return the DIPs that packets of live connections now reach."""

    def change(self, event: Event, live: Ids) -> None:
        """Take note of an event that has happened; `live` are the connections that live."""
        del event, live  # Nothing to note, unless a scheme says so.

    def _mux(self, ids: Ids) -> Ids:
        """Return the mux of each connection: ECMP over those alive."""
        living = np.flatnonzero(self.muxes)
        return _picked(living, self.hashes[ids] >> np.uint64(40))

    def _held(self, bytes_each: float, fixed: float = 0.0, count: int = 0) -> None:
        self.state = max(self.state, fixed + bytes_each * count)


class PlainEcmp(Scheme):
    """The hash modulo the DIPs alive, and nothing else."""

    name = "plain ECMP"

    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the DIP by the hash."""
        return self.later(ids)

    def later(self, ids: Ids) -> Ids:
        """Return the DIP by the hash."""
        living = np.flatnonzero(self.alive)
        self._held(DIP_BYTES, count=living.size)
        return _picked(living, self.hashes[ids])


class Maglev(Scheme):
    """Maglev hashing, and a connection table per mux, lost with the mux and by ECMP's remapping (NSDI
    2016).
    """

    name = "Maglev"
    SIZE = 6553  # a prime, about 100 entries per DIP
    ENTRY_BYTES = 32

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        """Fill the table."""
        super().__init__(churn, hashes, seed)
        self.offset = self.rng.integers(0, self.SIZE, churn.dips)
        self.skip = self.rng.integers(1, self.SIZE, churn.dips)
        self.table = maglev_table(self.offset, self.skip, self.alive, self.SIZE)
        self.held_by: Ids = np.full(len(hashes), -1)
        """The mux that has each connection in its table."""
        self.held_dip: Ids = np.full(len(hashes), -1)

    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the DIP by the table, and remember it."""
        return self.later(ids)

    def later(self, ids: Ids) -> Ids:
        """Return what the mux remembers, else the table's, which it remembers."""
        mux = self._mux(ids)
        known = (self.held_by[ids] == mux) & self.alive[np.maximum(self.held_dip[ids], 0)]
        chosen = self.table[self.hashes[ids] % np.uint64(self.SIZE)]
        found = np.where(known, self.held_dip[ids], chosen)
        self.held_by[ids], self.held_dip[ids] = mux, found
        return found

    def change(self, event: Event, live: Ids) -> None:
        """Fill the table anew where DIPs changed; a dead mux forgets."""
        if event.kind is Kind.DIP:
            self.table = maglev_table(self.offset, self.skip, self.alive, self.SIZE)
        elif event.kind is Kind.MUX and not event.up:
            self.held_by[self.held_by == event.which] = -1
        counts = np.bincount(self._mux(live), minlength=1) if live.size else np.zeros(1)
        self._held(self.ENTRY_BYTES, 4.0 * self.SIZE, int(counts.max()))


class _Slotted(Scheme):
    """A table of slots that changes as little as DIPs do, as DUET's and this project's."""

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        super().__init__(churn, hashes, seed)
        self.table: Ids = np.array(slots.build([1] * churn.dips), np.int64)

    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the slot's DIP."""
        return self._slot(ids)

    def _slot(self, ids: Ids) -> Ids:
        return _picked(self.table, self.hashes[ids])

    def _updated(self, event: Event) -> Ids:
        owners = [int(dip) if self.alive[dip] else None for dip in self.table]
        return np.array(slots.update(owners, self.alive.astype(int).tolist(), rebalance=event.up), np.int64)


class DuetPaper(_Slotted):
    """DUET as the paper has it: resilient hashing; where a DIP joins, a detour over the SMuxes, which
    know flows.

    What still lives when the VIP returns to the HMux and whose slot has another owner is broken; so is
    such a flow when ECMP brings it to another SMux on the detour.
    """

    name = "DUET (paper)"

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        super().__init__(churn, hashes, seed)
        self.on_hmux = True
        self.known: Flags = np.ones(len(hashes), bool)
        """Whether the SMux that gets a connection on a detour knows it."""

    def later(self, ids: Ids) -> Ids:
        """Return the slot's DIP on the HMux, the remembered one on the SMuxes."""
        if self.on_hmux:
            return self._slot(ids)
        known = self.known[ids] & self.alive[self.dip[ids]]
        return np.where(known, self.dip[ids], self._slot(ids))

    def change(self, event: Event, live: Ids) -> None:
        """Change the slots; go on a detour for a DIP that joins, and come back from it."""
        if event.kind is Kind.RETURN:
            self.on_hmux = True
            self.known[:] = True
        elif event.kind is Kind.DIP:
            self.table = self._updated(event)
            if event.up:
                self.on_hmux = False
        else:
            after = self._mux(live)
            self.muxes[event.which] = not event.up
            self.known[live] &= self._mux(live) == after
            self.muxes[event.which] = event.up
        flows = 0 if self.on_hmux else int(np.bincount(self._mux(live), minlength=1).max(initial=0))
        self._held(PIN_BYTES, SLOT_BYTES * len(self.table), flows)


class DuetPins(_Slotted):
    """DUET as here: the same slots, and every live flow whose slot gets another owner is pinned on all
    muxes.
    """

    name = "DUET (pins)"

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        super().__init__(churn, hashes, seed)
        self.pinned: Flags = np.zeros(len(hashes), bool)

    def later(self, ids: Ids) -> Ids:
        """Return the pin's DIP, else the slot's."""
        pinned = self.pinned[ids] & self.alive[self.dip[ids]]
        return np.where(pinned, self.dip[ids], self._slot(ids))

    def change(self, event: Event, live: Ids) -> None:
        """Pin what would move, then change the slots."""
        if event.kind is not Kind.DIP:
            return
        self.table = self._updated(event)
        kept = self.alive[self.dip[live]]
        self.pinned[live] = kept & (self._slot(live) != self.dip[live])
        self._held(PIN_BYTES, SLOT_BYTES * len(self.table), int(self.pinned[live].sum()))


class SilkRoad(Scheme):
    """A connection table in each switch, by digest, and versions of DIP pools (SIGCOMM 2017)."""

    name = "SilkRoad-like"

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        super().__init__(churn, hashes, seed)
        self.held_by: Ids = np.full(len(hashes), -1)
        self.held_dip: Ids = np.full(len(hashes), -1)

    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the DIP by the newest pool; a false hit of a digest is resolved by the CPU."""
        return self.later(ids)

    def later(self, ids: Ids) -> Ids:
        """Return what the switch remembers, else the newest pool's."""
        mux = self._mux(ids)
        living = np.flatnonzero(self.alive)
        chosen = _picked(living, self.hashes[ids])
        known = (self.held_by[ids] == mux) & self.alive[np.maximum(self.held_dip[ids], 0)]
        found = np.where(known, self.held_dip[ids], chosen)
        self.held_by[ids], self.held_dip[ids] = mux, found
        return found

    def change(self, event: Event, live: Ids) -> None:
        """A dead switch forgets."""
        if event.kind is Kind.MUX and not event.up:
            self.held_by[self.held_by == event.which] = -1
        counts = np.bincount(self._mux(live), minlength=1) if live.size else np.zeros(1)
        self._held(SILKROAD_BITS / 8, DIP_BYTES * self.churn.dips, int(counts.max()))


class Beamer(_Slotted):
    """No state in muxes: a packet names its bucket's former DIP too, which gets it if the new one does
    not know it (NSDI 2018).
    """

    name = "Beamer-like"

    def __init__(self, churn: Churn, hashes: NDArray[np.uint64], seed: int) -> None:
        super().__init__(churn, hashes, seed)
        self.former: Ids = self.table.copy()

    def later(self, ids: Ids) -> Ids:
        """Return the connection's own DIP if it is the bucket's present or former one."""
        bucket = self.hashes[ids] % np.uint64(len(self.table))
        own = self.dip[ids]
        known = (self.table[bucket] == own) | (self.former[bucket] == own)
        return np.where(known, own, self.table[bucket])

    def change(self, event: Event, live: Ids) -> None:
        """Give buckets new owners, and remember the old ones."""
        if event.kind is Kind.DIP:
            table = self._updated(event)
            self.former = np.where(table != self.table, self.table, self.former)
            self.table = table
        self._held(2 * SLOT_BYTES, 0.0, len(self.table))


class Cheetah(Scheme):
    """A cookie in every packet names the DIP, so the first packet may go to the least loaded of two (NSDI
    2020).
    """

    name = "Cheetah-like"

    def first(self, ids: Ids, load: Floats) -> Ids:
        """Return the less loaded of two DIPs, one connection after the other."""
        living = np.flatnonzero(self.alive)
        pairs = living[self.rng.integers(0, living.size, (len(ids), 2))]
        self._held(DIP_BYTES, count=self.churn.dips)
        return less_loaded(pairs, load)

    def later(self, ids: Ids) -> Ids:
        """Return the cookie's DIP; one that is gone is replaced by another."""
        living = np.flatnonzero(self.alive)
        other = _picked(living, self.hashes[ids])
        return np.where(self.alive[self.dip[ids]], self.dip[ids], other)


SCHEMES: dict[str, type[Scheme]] = {
    scheme.name: scheme for scheme in (DuetPins, DuetPaper, SilkRoad, Beamer, Cheetah, Maglev, PlainEcmp)
}


def events(rng: np.random.Generator, churn: Churn) -> list[Event]:
    """Draw what happens: one thing leaves at a time, so that something is always left, and all come back."""
    found: list[Event] = []
    for kind, count, per_minute in (
        (Kind.DIP, churn.dips, churn.dip_events_per_min / 2),
        (Kind.MUX, churn.muxes, churn.mux_events_per_min / 2),
    ):
        back = np.zeros(count)
        for at in np.sort(
            rng.uniform(0, churn.seconds, rng.poisson(per_minute * churn.seconds / 60))
        ).tolist():
            here = np.flatnonzero(back < at)
            if here.size <= count // 2:
                continue
            which = int(rng.choice(here))
            back[which] = at + rng.exponential(churn.away_s)
            found.append(Event(at, kind, which, False))
            found.append(Event(float(back[which]), kind, which, True))
            if kind is Kind.DIP:
                found.append(Event(float(back[which]) + churn.detour_s, Kind.RETURN, which, True))
    return sorted((event for event in found if event.at < churn.seconds), key=lambda event: event.at)


def compare(churn: Churn, name: str, seed: int) -> Kept:
    """Run one scheme; the same seed has the same connections and events for every scheme."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(churn.connections_per_s * churn.seconds))
    start = np.sort(rng.uniform(0, churn.seconds, count))
    life = churn.mean_life_s * (churn.tail - 1) * (rng.random(count) ** (-1 / churn.tail) - 1)
    end = start + life
    hashes = rng.integers(0, 2**63, count, dtype=np.uint64)
    scheme = SCHEMES[name](churn, hashes, seed)
    ended: Flags = np.zeros(count, bool)  # broken, or lost with their DIP
    broken = lost = 0
    imbalances = []
    begun = 0
    busy_until = 0.0
    for event in [*events(rng, churn), Event(churn.seconds, Kind.RETURN, -1, True)]:
        until = int(np.searchsorted(start, event.at))
        ids = np.arange(begun, until)
        live = np.flatnonzero((end[:begun] > event.at) & ~ended[:begun])
        if ids.size:
            load = np.bincount(scheme.dip[live], minlength=churn.dips).astype(np.float64)
            scheme.dip[ids] = scheme.first(ids, load)
        begun = until
        live = np.flatnonzero((end[:begun] > event.at) & ~ended[:begun])
        counts = np.bincount(scheme.dip[live], minlength=churn.dips)[scheme.alive]
        if live.size:
            imbalances.append(float(counts.max() / counts.mean()))
        if event.kind is Kind.DIP:
            scheme.alive[event.which] = event.up
            busy_until = event.at + churn.detour_s if event.up else busy_until
        elif event.kind is Kind.MUX:
            scheme.muxes[event.which] = event.up
        elif event.at < busy_until or event.which < 0:
            continue  # Another DIP has joined since: the detour goes on.
        scheme.change(event, live)
        gone = ~scheme.alive[scheme.dip[live]]
        lost += int(gone.sum())
        moved = ~gone & (scheme.later(live) != scheme.dip[live])
        broken += int(moved.sum())
        ended[live[gone | moved]] = True
    return Kept(count, broken, lost, scheme.state, float(np.mean(imbalances)))


def _picked(values: Ids, hashes: NDArray[np.uint64]) -> Ids:
    """Return the value that each hash picks, modulo their number."""
    found: Ids = values[hashes % np.uint64(len(values))]
    return found


@njit(cache=True)
def maglev_table(offset: Ids, skip: Ids, alive: Flags, size: int) -> Ids:
    """Fill Maglev's lookup table: DIPs take turns, each takes the next free entry of its own permutation."""
    table = np.full(size, -1, np.int64)
    following = np.zeros(offset.size, np.int64)
    filled = 0
    while True:
        for dip in range(offset.size):
            if not alive[dip]:
                continue
            entry = (offset[dip] + following[dip] * skip[dip]) % size
            while table[entry] >= 0:
                following[dip] += 1
                entry = (offset[dip] + following[dip] * skip[dip]) % size
            table[entry] = dip
            following[dip] += 1
            filled += 1
            if filled == size:
                return table


@njit(cache=True)
def less_loaded(pairs: NDArray[np.int64], load: Floats) -> Ids:
    """Give each its less loaded DIP of two, counting those given before it."""
    found = np.empty(pairs.shape[0], np.int64)
    for i in range(pairs.shape[0]):
        one, other = pairs[i, 0], pairs[i, 1]
        found[i] = one if load[one] <= load[other] else other
        load[found[i]] += 1.0
    return found


__all__ = ["SCHEMES", "Churn", "Event", "Kept", "Kind", "compare", "events", "maglev_table"]
