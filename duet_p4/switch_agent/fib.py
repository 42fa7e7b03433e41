"""The mirror of the kernel's routes in the switch's underlay tables."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network

from duet_p4.backoff import Backoff
from duet_p4.hmux.plan import Update
from duet_p4.hmux.routes import Gateway, RouteTables
from duet_p4.hmux.rows import Key, UnderlayRow
from duet_p4.switch_agent.kernel import Kernel
from duet_p4.switch_agent.p4client import NoDetoursError, Switch, WriteError
from duet_p4.switch_agent.p4session import SwitchError

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_LONGEST_RETRY_S = 5.0
_GATHER_S = 0.003
_REST_SHARE, _LONGEST_REST_S = 4, 0.05
"""A route to a new prefix waits until so many times as long as the last write took have passed since, if not
that long: a machine that has much to do writes many of them at once."""
_LISTED = 50
_DETOURS_S = 0.05
"""After the tables are as the kernel says, so long is waited before detours are prepared for them."""
_DETOURS_SHARE, _LONGEST_WAIT_S = 10, 10.0
"""So many times as long as they take is waited, too, if not that long: they cost a tenth of the time.

On a machine that has too much to do they take long, and must not take it from what they wait for.
"""
_TIMES = 4
"""They take what a row took in the best of so many times: in one, all may have been busy with a failure."""
_LONGEST_DETOUR = 2048
"""Updates of a detour at most: the switch takes them at once, and nothing else meanwhile."""


class FibMirror:
    """Keeps one switch's underlay tables as the kernel says, for the length of a P4Runtime session.

    Changes that come while the switch is being written to are gathered, and written together next. So are
    changes of routes that come shortly after each other: a withdrawal reaches a switch from each of its
    neighbours. Routes to new prefixes are gathered for longer the longer writing takes: without them, a
    shorter prefix leads there too. A neighbour that is lost waits for nothing.

    Once the tables stand still, the switch is told for each port what leads around it, so that it need not
    wait for this process when the port dies: what is written then only confirms what it has done. It is told
    of those that have changed: a route more, by two neighbours or more, changes none.
    """

    def __init__(self, kernel: Kernel, tables: RouteTables, switch: Switch) -> None:
        self._kernel = kernel
        self._switch = switch
        self.tables = tables
        self._prefixes: set[IPv4Network] = set()
        self._gateways: set[Gateway] = set()
        self._changed = asyncio.Event()
        self._soon = self._later = math.inf
        """When to write what is known of: at the latest, and once the last write is a while ago."""
        self._rested = 0.0
        self._stale = set(tables.ports())
        """Ports whose detour may be another than the one that was prepared, or was taken away."""
        self._prepared: dict[int, list[Update[UnderlayRow]]] = {}
        self._written = asyncio.Event()
        self._awaiting: list[asyncio.Future[None]] = []
        self._ended = False
        self._backoff = Backoff(_RETRY_S, _LONGEST_RETRY_S)
        self.problem = ""
        """What of the kernel's routes the switch does not hold; else nothing."""
        self.settled = asyncio.Event()
        """Set while the switch holds all that the kernel says."""

    async def run(self) -> None:
        """Mirror until cancelled. Raises `SwitchError` where the session ends."""
        self._kernel.on_change = self._note
        preparing = asyncio.create_task(self._keep_detours(), name="detours")
        try:
            self._note(self._kernel.prefixes(), self._kernel.gateways())
            while True:
                await self._due()
                awaiting, self._awaiting = self._awaiting, []
                try:
                    taken = await self._write()
                finally:
                    _done(awaiting)
                if taken and not (self._prefixes or self._gateways):
                    self.settled.set()
        finally:
            preparing.cancel()
            self._kernel.on_change = lambda prefixes, gateways: None
            self._ended = True
            _done(self._awaiting)

    async def written(self) -> None:
        """Wait until the switch has taken what the kernel has said by now, or is gone."""
        if self._ended:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._awaiting.append(waiting)
        self._write_within(0.0)
        await waiting

    def _write_within(self, seconds: float) -> None:
        self._soon = min(self._soon, time.monotonic() + seconds)
        self._changed.set()

    async def _due(self) -> None:
        """Wait until something is to be written; all that is known of then is."""
        while (left_s := min(self._soon, max(self._later, self._rested)) - time.monotonic()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if left_s == math.inf else left_s):
                    await self._changed.wait()
        self._soon = self._later = math.inf

    def _note(self, prefixes: set[IPv4Network], gateways: set[Gateway]) -> None:
        self._prefixes |= prefixes
        self._gateways |= gateways
        # A detour that was taken leaves no trace here, but the port that died does.
        if doubtful := {gateway.port for gateway in gateways} & self._prepared.keys():
            self._stale |= doubtful
            for port in doubtful:
                del self._prepared[port]
            self._written.set()
        self.settled.clear()
        if gateways or any(map(self.tables.wants, prefixes)):
            self._write_within(0.0 if gateways else _GATHER_S)
        else:
            self._later = min(self._later, time.monotonic() + _GATHER_S)
            self._changed.set()

    async def _keep_detours(self) -> None:
        """Prepare detours of ports whenever they have changed and the tables then stood still."""
        took: deque[float] = deque([0.0], maxlen=_TIMES)
        rows = 0
        while True:
            await self._written.wait()
            self._written.clear()
            cost = rows * min(took)
            await asyncio.sleep(max(_DETOURS_S, min(_DETOURS_SHARE * cost, _LONGEST_WAIT_S)))
            if self._written.is_set():
                continue
            began, rows = time.monotonic(), 1
            for port in sorted(self._stale):
                updates = self.tables.detour(port)
                if self._written.is_set():
                    break
                rows += len(updates)
                try:
                    await self._prepare(port, updates)
                except SwitchError as error:
                    logger.debug("no detours: %s", error)  # Whoever writes next ends the session.
                    return
                except NoDetoursError:
                    logger.info("the switch prepares no detours: around a dead port leads this agent only")
                    return
            seconds = time.monotonic() - began
            took.append(seconds / rows)
            if not self._written.is_set():
                logger.debug("detours are prepared: %d rows in %.1f ms", rows, 1e3 * seconds)

    async def _prepare(self, port: int, updates: list[Update[UnderlayRow]]) -> None:
        """Have the switch hold a port's detour, unless it does. Raises `SwitchError`, `NoDetoursError`."""
        if len(updates) > _LONGEST_DETOUR:
            logger.debug("no detour of port %d: it takes %d updates", port, len(updates))
            updates = []
        self._stale.discard(port)
        if self._prepared.get(port) == updates:
            return
        # What is written meanwhile may take it away again.
        self._prepared[port] = updates
        if not await self._switch.prepare_detour(port, updates):
            self._prepared.pop(port, None)

    def _note_written(self, updates: Sequence[Update[UnderlayRow]]) -> None:
        """Note whose detours are to be prepared anew: others', and those that these updates took away."""
        keys = _keys(updates)
        over = {port for port, known in self._prepared.items() if not keys.isdisjoint(_keys(known))}
        for port in over:
            del self._prepared[port]
        if stale := over | self.tables.concerned(updates):
            self._stale |= stale
            self._written.set()

    async def _write(self) -> bool:
        """Write what changed; return whether the switch took all of it. What it refuses is tried again."""
        prefixes, self._prefixes = self._prefixes, set()
        gateways, self._gateways = self._gateways, set()
        self.tables.want({prefix: self._kernel.target(prefix) for prefix in prefixes})
        self.tables.reach({gateway: self._kernel.adjacency(gateway) for gateway in gateways})
        before = self.tables.unplaced
        plan = self.tables.plan()
        began = time.monotonic()
        try:
            timings = await self._switch.write_plan(plan)
        except WriteError as error:
            wait_s = self._backoff.failed()
            self.problem = f"the switch does not take the kernel's routes: {error}"
            logger.error("%s: trying again in %g s", self.problem, wait_s)
            self.tables.apply(error.taken)
            self._prepared.clear()
            self._write_within(wait_s)
            return False
        finally:
            took_s = time.monotonic() - began
            self._rested = began + took_s + min(_REST_SHARE * took_s, _LONGEST_REST_S)
        self.tables.settle()
        if len(plan):
            self._note_written(list(plan))
        self._backoff.succeeded()
        self.problem = f"no room for the routes to {_some(u)}" if (u := self.tables.unplaced) else ""
        if len(plan):
            logger.debug("mirrored %s: %d rows in %.1f ms", _some(prefixes), len(plan), sum(timings.values()))
        if self.tables.unplaced != before:
            logger.error("no room for %s", _some(self.tables.unplaced))
        return True


def _keys(updates: Iterable[Update[UnderlayRow]]) -> set[Key]:
    return {update.row.key for update in updates}


def _done(awaiting: Iterable[asyncio.Future[None]]) -> None:
    for waiting in awaiting:
        if not waiting.done():
            waiting.set_result(None)


def _some(prefixes: Collection[IPv4Network]) -> str:
    listed = ", ".join(map(str, sorted(prefixes)[:_LISTED]))
    return f"{listed} and {more} more" if (more := len(prefixes) - _LISTED) > 0 else listed or "no prefix"
