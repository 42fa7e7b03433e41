"""What an agent holds, by address: in memory and in its journal, with a digest; and changes of it.

`Keeper` is what the services of all agents share: the order of changes, one writer per address, terms,
confirmation by the controller. A service adds what its data path does for each of the four actions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Generic, TypeVar

from duet_p4.api.changes import Action, Change, Changed, Result
from duet_p4.api.digest import Digest, SetDigest, weight
from duet_p4.api.installed import Installed
from duet_p4.api.problems import ConflictError, ProblemError, UnavailableError, UnknownError, error_of
from duet_p4.journal import Held, Journal, JournalError
from duet_p4.model import Model
from duet_p4.rest.access import ACTOR
from duet_p4.term import Terms, carried

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry", bound=Model)

_TOLD = 3
BREATH = 64
"""How many entries a bulk request handles before others of the event loop have their turn."""


def address_of(entry: Model) -> IPv4Address:
    """Return the address that an entry is held by."""
    address: IPv4Address = entry.address  # type: ignore[attr-defined]
    return address


def actor() -> str:
    """Return who has asked for what is being done, and in which term."""
    peer, term = ACTOR.get(), carried()
    who = str(peer) if peer else "somebody without a certificate"
    return f"{who} (term {term})" if term else who


class Holdings(Generic[Entry]):
    """Entries by address. What is written down survives the process; what is noted is what is so."""

    def __init__(self, journal: Journal[Entry]) -> None:
        """Take what the journal has."""
        self._journal = journal
        self._held: dict[IPv4Address, Held[Entry]] = {}
        self._weights: dict[IPv4Address, int] = {}
        self._digest = SetDigest()
        self._announced = 0
        self._origins: dict[IPv4Address, Installed] = {}
        self._coming: dict[IPv4Address, Installed] = journal.origins()
        self.note(journal.load())
        self.problem = "; ".join(journal.problems)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, address: object) -> bool:
        return address in self._held

    def __iter__(self) -> Iterator[IPv4Address]:
        return iter(sorted(self._held))

    def get(self, address: IPv4Address) -> Held[Entry] | None:
        """Return what is held by an address."""
        return self._held.get(address)

    def items(self) -> list[tuple[IPv4Address, Held[Entry]]]:
        """Return everything, ordered by address."""
        return sorted(self._held.items())

    def of_kind(self, kind: type[Model]) -> list[Held[Entry]]:
        """Return what is held of one model, ordered by address."""
        return [held for _, held in self.items() if isinstance(held.entry, kind)]

    def count(self, kind: type[Model]) -> int:
        """Return how many entries there are of one model."""
        return sum(isinstance(held.entry, kind) for held in self._held.values())

    def installed(self, address: IPv4Address) -> Installed | None:
        """Return who has put what is held by an address as it is, and when; None where nothing is held."""
        if address not in self._held:
            return None
        return self._origins.get(address, Installed())

    def digest(self, term: int) -> Digest:
        """Return everything in short."""
        return Digest(
            digest=self._digest.hex(), entries=len(self._held), announced=self._announced, term=term
        )

    async def write_down(self, changes: Mapping[IPv4Address, Held[Entry] | None]) -> None:
        """Write changes to the journal, all or nothing. Raises UnavailableError."""
        if not changes:
            return
        origins = self._origins_of(changes)
        self._coming |= origins
        try:
            await asyncio.to_thread(self._journal.write, changes, origins)
        except JournalError as error:
            raise UnavailableError(str(error)) from error

    def note(self, changes: Mapping[IPv4Address, Held[Entry] | None]) -> None:
        """Have changes that were carried out in memory."""
        for address, held in changes.items():
            old = self._held.pop(address, None)
            self._origins.pop(address, None)
            origin = self._coming.pop(address, None)
            self._digest.shift(-self._weights.pop(address, 0))
            self._announced -= bool(old and old.announced)
            if held is not None:
                self._held[address] = held
                if origin is not None:
                    self._origins[address] = origin
                self._weights[address] = weight(held.entry, held.announced)
                self._digest.shift(self._weights[address])
                self._announced += held.announced

    def forget(self, address: IPv4Address) -> None:
        """Hold an entry no more that has no room any more. Raises `JournalError`."""
        self._journal.write({address: None})
        self.note({address: None})

    def _origins_of(self, changes: Mapping[IPv4Address, Held[Entry] | None]) -> dict[IPv4Address, Installed]:
        """Say of what is put who does so: its first time as it is counts."""
        now = Installed(at=time.time(), by=actor())
        origins = {}
        for address, held in changes.items():
            if held is not None:
                known = self._held.get(address)
                same = known is not None and known.entry == held.entry
                origins[address] = self._origins.get(address, now) if same else now
        return origins

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


class AddressLocks:
    """One lock per address, there only while somebody has it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[IPv4Address, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def alone(self, addresses: Iterable[IPv4Address]) -> AsyncIterator[None]:
        """Have addresses to oneself."""
        taken: list[IPv4Address] = []
        try:
            # All in one order, so that two requests never wait for each other.
            for address in sorted(set(addresses)):
                lock, users = self._locks.get(address, (asyncio.Lock(), 0))
                self._locks[address] = (lock, users + 1)
                try:
                    await lock.acquire()
                except BaseException:
                    self._leave(address)
                    raise
                taken.append(address)
            yield
        finally:
            for address in taken:
                self._locks[address][0].release()
                self._leave(address)

    def _leave(self, address: IPv4Address) -> None:
        lock, users = self._locks[address]
        if users == 1:
            del self._locks[address]
        else:
            self._locks[address] = (lock, users - 1)


@dataclass
class Wish(Generic[Entry]):
    """Changes to carry out, in this order; `put` has entries and whether to announce them, too."""

    withdraw: Sequence[IPv4Address] = ()
    delete: Sequence[IPv4Address] = ()
    put: Sequence[tuple[Entry, bool]] = ()
    announce: Sequence[IPv4Address] = ()

    def addresses(self) -> set[IPv4Address]:
        """Return every address that changes."""
        return {*self.withdraw, *self.delete, *self.announce, *(address_of(entry) for entry, _ in self.put)}


@dataclass
class Outcome:
    """What came of changes of one kind, address by address: the change, or why there is none."""

    action: Action
    changes: dict[IPv4Address, Change] = field(default_factory=dict)
    problems: dict[IPv4Address, ProblemError] = field(default_factory=dict)

    def results(self) -> Iterator[Result]:
        """Yield it as REST answers it."""
        for address, change in self.changes.items():
            yield Result(address=address, action=self.action, change=change)
        for address, error in self.problems.items():
            yield Result(address=address, action=self.action, problem=error.problem)


class Keeper(ABC, Generic[Entry]):
    """Changes what an agent holds. `where` names the device in messages."""

    def __init__(self, where: str, holdings: Holdings[Entry], terms: Terms) -> None:
        self._where = where
        self._holdings = holdings
        self._terms = terms
        self._locks = AddressLocks()
        self._confirmed: list[Callable[[], None]] = []
        self._unplaced: dict[IPv4Address, str] = {}
        """What of the journal the data path could not be given, and why."""
        self.synced = False
        """Whether what is held was confirmed since the start."""

    @property
    def problem(self) -> str:
        """What of the journal was lost or has no room, until what is held is confirmed; else nothing."""
        if self.synced:
            return ""
        lost = [f"{address} of the journal is not served: {why}" for address, why in self._unplaced.items()]
        return "; ".join(filter(None, (self._holdings.problem, self._terms.problem, *lost[:_TOLD])))

    def on_confirmation(self, call: Callable[[], None]) -> None:
        """Have `call` called when what is held is confirmed for the first time."""
        self._confirmed.append(call)

    def installed(self, address: IPv4Address) -> Installed:
        """Return who has put an entry here as it is, and when. Raises UnknownError."""
        found = self._holdings.installed(address)
        if found is None:
            raise UnknownError(f"{address} is not on {self._where}")
        return found

    def installed_by(self, address: IPv4Address) -> Installed | None:
        """Return the same, None where nothing is held."""
        return self._holdings.installed(address)

    def digest(self) -> Digest:
        """Return what is held, in short."""
        return self._holdings.digest(self._terms.highest)

    async def confirm(self, digest: str) -> None:
        """Be told that what is held is what should be. Raises ConflictError where it is not."""
        held = self.digest()
        if held.digest != digest:
            raise ConflictError(
                f"{self._where} holds {held.digest} ({held.entries} entries), not {digest}", "digest-differs"
            )
        self._terms.check()
        self._be_synced()

    async def carry_out(self, wish: Wish[Entry]) -> Changed:
        """Carry out changes; what fails for one address stops no other."""
        async with self._locks.alone(wish.addresses()):
            return await self._carry_out(wish)

    async def carry_out_one(self, action: Action, wish: Wish[Entry]) -> Change:
        """Carry out the change of one address, and raise what is in its way."""
        (result,) = (r for r in (await self.carry_out(wish)).results if r.action is action)
        if result.problem is not None:
            raise error_of(result.problem)
        assert result.change is not None
        return result.change

    async def hold_just(self, wanted: Mapping[IPv4Address, Held[Entry]]) -> Changed:
        """Hold what is wanted and nothing else; what is right already is not touched."""
        async with self._locks.alone({*self._holdings, *wanted}):
            wish = self._difference(wanted)
            changed = await self._carry_out(wish)
            if not changed.problems():
                self._be_synced()
            return changed

    def known(self, address: IPv4Address, kind: type[Model], what: str) -> Held[Entry]:
        """Return what is held by an address. Raises UnknownError where that is nothing, or another kind."""
        held = self._holdings.get(address)
        if held is None or not isinstance(held.entry, kind):
            raise UnknownError(f"{what} {address} is not on {self._where}")
        return held

    def _difference(self, wanted: Mapping[IPv4Address, Held[Entry]]) -> Wish[Entry]:
        withdraw, put, announce = [], [], []
        gone = [address for address in self._holdings if address not in wanted]
        for address, want in wanted.items():
            held = self._holdings.get(address)
            if held == want:
                continue
            if held is not None and type(held.entry) is not type(want.entry):
                gone.append(address)
                held = None
            if held is not None and held.announced and not want.announced:
                withdraw.append(address)
            if held is None or held.entry != want.entry:
                put.append((want.entry, want.announced))
            elif want.announced and not held.announced:
                announce.append(address)
        return Wish(withdraw, gone, put, announce)

    async def _carry_out(self, wish: Wish[Entry]) -> Changed:
        self._terms.check()
        results: list[Result] = []
        for addresses, action, carry_out in (
            (wish.withdraw, Action.WITHDRAW, self._withdraw),
            (wish.delete, Action.DELETE, self._delete),
        ):
            results += (await self._for_known(addresses, action, carry_out)).results()
        if wish.put:
            outcome = Outcome(Action.PUT)
            await self._put(wish.put, outcome)
            results += outcome.results()
        results += (await self._for_known(wish.announce, Action.ANNOUNCE, self._announce)).results()
        return Changed(results=tuple(results), digest=self.digest())

    async def _for_known(
        self, addresses: Sequence[IPv4Address], action: Action, carry_out: Callable[..., object]
    ) -> Outcome:
        outcome = Outcome(action)
        known = []
        for address in addresses:
            if address in self._holdings:
                known.append(address)
            else:
                outcome.problems[address] = UnknownError(f"{address} is not on {self._where}")
        if known:
            work = carry_out(known, outcome)
            assert asyncio.iscoroutine(work)
            await work
        return outcome

    def _be_synced(self) -> None:
        first, self.synced = not self.synced, True
        if first:
            for call in self._confirmed:
                call()

    @abstractmethod
    async def _withdraw(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Withdraw what is held, and keep serving what still arrives."""

    @abstractmethod
    async def _delete(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Forget what is held."""

    @abstractmethod
    async def _put(self, entries: Sequence[tuple[Entry, bool]], outcome: Outcome) -> None:
        """Hold entries exactly as given, and announce those that are to be."""

    @abstractmethod
    async def _announce(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Announce what is held."""


async def breathe(position: int) -> None:
    """Give others a turn, now and then."""
    if position % BREATH == BREATH - 1:
        await asyncio.sleep(0)
