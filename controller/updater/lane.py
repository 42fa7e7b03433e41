"""The way to one device: one request at a time, made of all that waits, the most urgent first.

A lane knows what its device holds, so far as anybody can: what it was seen to hold, and what it
acknowledged since. A request that is not answered leaves that in doubt until the device has been asked.
A device that does not answer, or refuses everything, is left alone for longer each time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from controller.updater.devices import Came, Device, Operation
from controller.updater.plan import Action, DeviceKind, DeviceState, Entry
from duet_p4 import telemetry
from duet_p4.api.digest import SetDigest
from duet_p4.api.problems import TYPE_PREFIX, Problem
from duet_p4.rest.client import RefusedError, RestError

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

logger = logging.getLogger(__name__)

BATCH = 512
"""How many changes one request carries at most, so that what is urgent waits for no more."""

AWAY = "away"
"""The kind of problem that an operation meets which was not even asked for: its device cannot be reached."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""How long a device that failed is left alone: first, and at most."""


class Priority(IntEnum):
    """Whose work goes first."""

    HEALTH = 0
    OPERATOR = 1
    REPAIR = 2
    ASSIGNMENT = 3


@dataclass(order=True)
class _Waiting:
    priority: Priority
    number: int
    operation: Operation = None  # type: ignore[assignment]
    done: asyncio.Future[Came] = None  # type: ignore[assignment]
    since: float = 0.0
    cause: SpanContext | None = None


class Lane:
    """What is known of a device, and what is to be done on it.

    `wanted` says what it shall hold, `differs` is told which addresses it holds otherwise, and `holders` has
    the names of the lanes whose device holds an address.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        limit: asyncio.Semaphore,
        wanted: Callable[[], DeviceState],
        differs: Callable[[set[IPv4Address]], None],
        holders: dict[IPv4Address, set[str]],
    ) -> None:
        self.name = name
        self.device = device
        self.kind = device.kind
        self._limit = limit
        self._wanted = wanted
        self._differs = differs
        self._holders = holders
        self.held = DeviceState(device.kind)
        self._sum = SetDigest()
        self.known = False
        self.confirmed = False
        self.reachable = True
        self.cut_off = False
        self.problem = ""
        self.seen: float | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._unconfirmed = 0
        self._confirm_at = 0.0
        self._queue: list[_Waiting] = []
        self._sent: list[_Waiting] = []
        self._numbers = itertools.count()
        self._worker: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    # What is known

    @property
    def open(self) -> bool:
        """Whether it can be asked now."""
        return self.reachable and not self.cut_off and time.monotonic() >= self._retry_at

    @property
    def doubtful(self) -> bool:
        """Whether what is known of it may be wrong, or it was not told what it should have been."""
        return not self.known or self._failures > 0

    @property
    def retry_in(self) -> float:
        """How many seconds it will be left alone."""
        return max(0.0, self._retry_at - time.monotonic())

    @property
    def depth(self) -> int:
        """How many changes wait."""
        return len(self._queue)

    def oldest_s(self) -> float:
        """Return for how long the oldest change has waited."""
        return max((time.monotonic() - item.since for item in self._queue), default=0.0)

    def may_hold(self, address: IPv4Address) -> bool:
        """Whether the device may hold an address: it was not seen to be without."""
        return not self.known or address in self.held.entries

    def part(self, addresses: set[IPv4Address]) -> DeviceState:
        """Return what it holds of some addresses."""
        state = DeviceState(self.kind)
        for address in addresses:
            if address in self.held.entries:
                state.hold(self.held.entries[address], announced=address in self.held.announced)
        return state

    def _note(self, entry: Entry | None, address: IPv4Address, announced: bool) -> None:
        old = self.held.entries.get(address)
        was = address in self.held.announced
        if old is entry and was == announced:
            return
        if old is not None:
            self._sum.discard(old, was)
            self._drop(address)
        if entry is not None:
            self._sum.add(entry, announced)
            self.held.hold(entry, announced=announced)
            self._holders.setdefault(address, set()).add(self.name)

    def _drop(self, address: IPv4Address) -> None:
        del self.held.entries[address]
        self.held.announced.discard(address)
        holders = self._holders[address]
        holders.discard(self.name)
        if not holders:
            del self._holders[address]

    def _take_over(self, state: DeviceState) -> None:
        for address in list(self.held.entries):
            self._drop(address)
        self.held = state
        self._sum = SetDigest()
        for address, entry in state.entries.items():
            self._sum.add(entry, address in state.announced)
            self._holders.setdefault(address, set()).add(self.name)
        self.known = True
        self.confirmed = False

    # Changes

    def submit(self, operation: Operation, priority: Priority) -> asyncio.Future[Came]:
        """Have something done; the answer comes at once where the device cannot be asked."""
        done: asyncio.Future[Came] = asyncio.get_running_loop().create_future()
        if not self.open:
            done.set_result(Came(0, self._away()))
            return done
        cause = telemetry.current()
        item = _Waiting(priority, next(self._numbers), operation, done, time.monotonic(), cause)
        heapq.heappush(self._queue, item)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"lane {self.name}")
        return done

    def _away(self) -> Problem:
        why = self.problem or "it does not answer"
        return Problem(type=TYPE_PREFIX + AWAY, title="Away", status=503, detail=f"{self.name}: {why}")

    async def _work(self) -> None:
        while self._queue:
            async with self._turn, self._limit:
                items = [heapq.heappop(self._queue) for _ in range(min(BATCH, len(self._queue)))]
                self._sent = items
                try:
                    await self._send(items)
                finally:
                    self._sent = []
                    self._give_up(items)
            if not self.open:
                self._give_up(self._queue)
                self._queue.clear()

    def _give_up(self, items: Iterable[_Waiting]) -> None:
        for item in items:
            if not item.done.done():
                item.done.set_result(Came(0, self._away()))

    async def _send(self, items: list[_Waiting]) -> None:
        causes = list({item.cause.span_id: item.cause for item in items if item.cause is not None}.values())
        try:
            with (
                telemetry.entered(causes[0] if causes else None),
                telemetry.span(f"lane {self.name}", links=causes[1:], duet__changes=len(items)),
            ):
                came = await self.device.change([item.operation for item in items])
        except RestError as error:
            self._failed(error)
            return
        self._answered()
        for item, result in zip(items, came, strict=True):
            if result.problem is None:
                self._did(item.operation)
            if not item.done.done():
                item.done.set_result(result)

    def _did(self, operation: Operation) -> None:
        address = operation.address
        if operation.action is Action.DELETE:
            self._note(None, address, False)
        elif operation.action is Action.ANNOUNCE:
            self._note(self.held.entries.get(address, operation.entry), address, True)
        else:
            announced = operation.action is Action.PUT or address in self.held.announced
            self._note(operation.entry, address, announced)

    def _failed(self, error: RestError) -> None:
        """Leave it alone for a while. What it does not answer to, it may have done."""
        self.problem = str(error)
        self.confirmed = False
        if not isinstance(error, RefusedError):
            self.known = False
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16))
        self._retry_at = time.monotonic() + pause * random.uniform(0.8, 1.0)
        self._failures += 1
        logger.warning("%s is left alone for %.1f s: %s", self.name, self.retry_in, error)

    def _answered(self) -> None:
        self.problem = ""
        self._failures = 0
        self._retry_at = 0.0
        self.seen = time.time()

    def replace(self, device: Device) -> None:
        """Go on with a device that answers elsewhere."""
        self.device = device
        self.known = self.confirmed = False
        self._retry_at = 0.0

    def close(self) -> None:
        """Forget a device that there is not any more; nobody waits for it."""
        self.set_cut_off(True)
        for address in list(self.held.entries):
            self._drop(address)

    # Whether what is known is true

    def set_reachable(self, reachable: bool) -> None:
        """Be told whether the device answers. One that does again may be asked at once."""
        if reachable and not self.reachable:
            self.known = False
        self.reachable = reachable
        if reachable:
            self._retry_at = 0.0
        elif not self.problem:
            self.problem = "it does not answer"

    def set_cut_off(self, cut_off: bool) -> None:
        """Be told whether no packet can get to the device. Nobody waits for what it was sent any more."""
        if cut_off and not self.cut_off:
            self.problem = self.problem or "it is cut off"
            self._give_up([*self._queue, *self._sent])
            self._queue.clear()
        elif self.cut_off and not cut_off:
            self.known = False
            self._retry_at = 0.0
        self.cut_off = cut_off

    def due(self) -> bool:
        """Whether it can be asked, and has not been since it last failed or was out of reach.

        One that was to be changed before it could be confirmed is asked again, ever less often: until then
        it may hold announcements back.
        """
        waits = not self.confirmed and time.monotonic() >= self._confirm_at
        return self.open and (self.doubtful or waits)

    async def ensure_known(self) -> None:
        """Find out what the device holds, unless somebody else did so meanwhile."""
        async with self._turn:
            if self.known or not self.open:
                return
            await self._guarded_check()

    async def check(self) -> bool:
        """Find out what the device holds, with as little as that takes; returns whether it was asked.

        One that holds what it was seen to hold, and should, is asked in one small request, which also lets
        it announce what it held back since it started. An SMux or a server that does not is filled at once.
        What differs on a switch is told, and put right address by address.
        """
        async with self._turn:
            return self.open and await self._guarded_check()

    async def _guarded_check(self) -> bool:
        async with self._limit:
            try:
                await self._check()
            except RestError as error:
                self._failed(error)
                return False
        self._answered()
        self._unconfirmed = 0 if self.confirmed else self._unconfirmed + 1
        pause = FIRST_PAUSE_S * 2.0 ** min(self._unconfirmed, 16)
        self._confirm_at = time.monotonic() + min(LONGEST_PAUSE_S, pause)
        return True

    async def _check(self) -> None:
        if self.known and self.confirmed:
            await self._confirm()
            if self.known:
                return
        digest = (await self.device.digest()).digest
        if not self.known or digest != self._sum.hex():
            await self._read(digest)
        if not self._settle():
            return
        await self._confirm()

    async def _read(self, digest: str) -> None:
        """Find out what it holds, whose digest is not that of what was believed."""
        self.confirmed = False
        if self._sum.hex() == digest and self.held.entries:
            self.known = True
            return
        wanted = self._wanted()
        if _sum_of(wanted) == digest:
            self._take_over(wanted)
            return
        if self.kind is not DeviceKind.SWITCH:
            # Nothing of an SMux or a server has to wait for what other devices do first.
            for address, problem in await self.device.become(wanted):
                logger.warning("%s does not take %s: %s", self.name, address, problem.detail)
            if _sum_of(wanted) == (await self.device.digest()).digest:
                self._take_over(wanted)
                return
        observed = await self.device.observe()
        for address, entry in observed.entries.items():
            if entry == wanted.entries.get(address):
                observed.entries[address] = wanted.entries[address]
        self._take_over(observed)

    def _settle(self) -> bool:
        """Tell what is not as it should be now; returns whether all is."""
        differing = difference(self._wanted(), self.held)
        if differing:
            self._differs(differing)
        return not differing

    async def _confirm(self) -> None:
        try:
            await self.device.confirm(self._sum.hex())
            self.confirmed = True
        except RefusedError as error:
            if error.problem.kind != "digest-differs":
                raise
            self.known = self.confirmed = False


def difference(wanted: DeviceState, held: DeviceState) -> set[IPv4Address]:
    """Return the addresses that a device holds otherwise than it should."""
    found = wanted.entries.keys() ^ held.entries.keys()
    for address, entry in wanted.entries.items():
        have = held.entries.get(address)
        if have is not None and ((have is not entry and have != entry) or address not in held.announced):
            found.add(address)
    return found


def _sum_of(state: DeviceState) -> str:
    digest = SetDigest()
    for address, entry in state.entries.items():
        digest.add(entry, address in state.announced)
    return digest.hex()
