"""What the controller asks of whatever keeps its state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from controller.records import Event, Resting, VipRecord
from duet_p4.model import Checked

EVENTS_KEPT = 10_000
"""How many events a store keeps, the newest."""


class StoreError(Exception):
    """The store cannot do what it was asked; the text says why. Nothing of the batch was changed."""


class StaleError(StoreError):
    """Somebody else changed a VIP since it was read."""


class LockedError(StoreError):
    """Another controller has the store."""


@dataclass
class Batch:
    """Changes that are made all together or not at all.

    `put` and `delete` state the version that each VIP had when it was read (0: it was not there); a VIP that
    has another one by now makes the batch fail with `StaleError`. A VIP that is put gets the next version.
    `down` has, by VIP, DIP and check, whether the DIP is down from now on, `cut_off` which servers cannot be
    reached from now on, or can again; `resting` what rests, or None for what rests no more. `events` have ids
    above all those before. `revision` is the store's, where it has one.
    """

    put: list[tuple[VipRecord, int]] = field(default_factory=list)
    delete: list[tuple[IPv4Address, int]] = field(default_factory=list)
    down: dict[tuple[IPv4Address, Checked], bool] = field(default_factory=dict)
    cut_off: dict[str, bool] = field(default_factory=dict)
    resting: dict[IPv4Address, Resting | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    revision: int = 0


@dataclass
class Contents:
    """All that a store has, but for old events: VIPs with their versions, DIPs that are down by VIP."""

    vips: dict[IPv4Address, tuple[VipRecord, int]] = field(default_factory=dict)
    down: set[tuple[IPv4Address, Checked]] = field(default_factory=set)
    cut_off: set[str] = field(default_factory=set)
    resting: dict[IPv4Address, Resting] = field(default_factory=dict)
    last_event: int = 0


class StateStore(Protocol):
    """Keeps state over the death of everything. Calls raise `StoreError`."""

    @property
    def most(self) -> int:
        """How many VIPs a batch changes at most."""

    async def load(self) -> Contents:
        """Return all there is; done once, by who becomes the leader or follows one."""

    async def commit(self, batch: Batch) -> None:
        """Make the changes of a batch; once this returns, they survive a power cut. Raises `StaleError`."""

    async def next_term(self) -> int:
        """Begin a new leader's term: a number above every one before."""

    async def events(self, after: int | None, limit: int) -> list[Event]:
        """Return up to `limit` events with an id above `after`, oldest first; with None, the newest."""

    def watch(self) -> AsyncIterator[Batch]:
        """Yield every batch that anybody commits from now on, in order: what a follower keeps up by."""

    async def close(self) -> None:
        """Write what is under way, and let go."""
