"""The front-panel ports: what BIRD, the neighbour table and the host interfaces are told of each.

For each port one task compares what should be so with what is, and tries until it is: a step that fails,
such as one that BIRD was too busy for, is tried again, and never costs a later change of the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from duet_p4.backoff import Backoff
from duet_p4.bird.config import Neighbor
from duet_p4.bird.daemon import BirdError

logger = logging.getLogger(__name__)

_WRITTEN_S = 0.5
"""How long BGP waits for the switch: one that does not answer must not keep a dead link's session."""
_RETRY_S = 0.05
_LONGEST_RETRY_S = 2.0
_FORGIVEN_S = 10.0
"""How long a port must have been quiet for one of its flaps to be forgotten."""
_FREE_FLAPS = 3
_DAMPING_S = 0.5
_LONGEST_DAMPING_S = 10.0


class Bgp(Protocol):
    """What ends and begins a neighbour's session: BIRD."""

    async def set_session(self, neighbor: Neighbor, *, enabled: bool) -> None:
        """End a session, or have it come up. Raises BirdError."""


class Neighbors(Protocol):
    """The kernel's neighbour table."""

    def resolve(self, number: int) -> None:
        """Have a port's peer resolved. Raises OSError."""

    def forget(self, number: int) -> None:
        """Have a port's peer forgotten. Raises OSError."""


class Damping:
    """How long a port that flaps must have been up before it is used again."""

    def __init__(self) -> None:
        self._flaps = 0.0
        self._last_s = 0.0

    def went_down(self, now_s: float) -> None:
        """Count a flap; those long ago are forgotten."""
        self._flaps = max(0.0, self._flaps - (now_s - self._last_s) / _FORGIVEN_S) + 1
        self._last_s = now_s

    def wait_s(self) -> float:
        """Return how long it is to be watched: not at all after the first few flaps."""
        more = self._flaps - _FREE_FLAPS
        return min(_DAMPING_S * 2.0**more, _LONGEST_DAMPING_S) if more > 0 else 0.0


@dataclass
class _Port:
    """What is wanted of a port, and what was done; None where nothing is known to be done."""

    up: bool = False
    silent: bool = False
    session: bool | None = None
    resolved: bool | None = None
    carrier: bool | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    damping: Damping = field(default_factory=Damping)


class Ports:
    """Follows the carriers of all ports while `run` runs.

    `written` waits until the switch has been told what leads around a port that went down. `set_carrier`
    gives a host interface carrier, or takes it; it may block.
    """

    def __init__(
        self,
        sessions: Mapping[int, Neighbor | None],
        bgp: Bgp,
        neighbors: Neighbors,
        set_carrier: Callable[[int, bool], None],
        written: Callable[[], Awaitable[None]],
    ) -> None:
        """Take every port's number, with its BGP neighbour where it has one."""
        self._sessions = dict(sessions)
        self._bgp = bgp
        self._neighbors = neighbors
        self._set_carrier = set_carrier
        self._written = written
        self._ports = {number: _Port() for number in sessions}
        self._carrier = dict.fromkeys(sessions, False)
        self._enabling = asyncio.Lock()
        self._used: bool | None = None
        """Not known before the switch was met: a predecessor's ports are left as they are."""

    def carrier_changed(self, number: int, up: bool) -> None:
        """Note that a link went up or down."""
        if not up and self._carrier[number]:
            self._ports[number].damping.went_down(asyncio.get_running_loop().time())
        self._carrier[number] = up
        self._ports[number].silent = False
        self._want(number)

    def silence_changed(self, number: int, silent: bool) -> None:
        """Note that a port's neighbour forwards nothing although the link is up, or does so again.

        BGP ends meanwhile. The stack keeps the link: it is how one hears of another neighbour there.
        """
        self._ports[number].silent = silent
        self._want(number)

    def use(self, used: bool) -> None:
        """Have the ports follow their links, or (of a switch that is dead) all down."""
        self._used = used
        for number in self._ports:
            self._want(number)

    def bird_restarted(self) -> None:
        """Note that a new BIRD has all sessions enabled, whatever the old one was told."""
        for number, port in self._ports.items():
            port.session = None
            self._want(number)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in self._ports:
                tasks.create_task(self._follow(number), name=f"port {number}")

    def _want(self, number: int) -> None:
        if self._used is None:
            return
        port = self._ports[number]
        port.up = self._used and self._carrier[number]
        port.changed.set()

    async def _follow(self, number: int) -> None:
        port = self._ports[number]
        backoff = Backoff(_RETRY_S, _LONGEST_RETRY_S)
        while True:
            await port.changed.wait()
            port.changed.clear()
            if port.up and not await self._stays_up(port):
                continue
            if await self._apply(number, port):
                backoff.succeeded()
                continue
            try:
                async with asyncio.timeout(backoff.failed()):
                    await port.changed.wait()
            except TimeoutError:
                port.changed.set()

    async def _stays_up(self, port: _Port) -> bool:
        """Watch a port that flapped for a while; return whether it stayed as it is."""
        wait_s = port.damping.wait_s() if port.carrier is False else 0.0
        if not wait_s:
            return True
        try:
            async with asyncio.timeout(wait_s):
                await port.changed.wait()
        except TimeoutError:
            return True
        return False

    async def _apply(self, number: int, port: _Port) -> bool:
        """Tell of a port what was not told yet; return whether all was taken.

        What leads around a dead link comes first: packets are being lost. BIRD's news can wait, since they
        set the whole fabric to work. BIRD would see the host interface's carrier by itself, but to take an
        interface down may hold up all changes of routes on the machine, so that comes last.
        """
        up = port.up
        talks = up and not port.silent
        if not talks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITTEN_S):
                    await self._written()
        neighbor = self._sessions[number]
        done = True
        if neighbor is not None and port.session != talks:
            try:
                # A BIRD that has just begun answers one after the other, not all of them in time.
                turn: contextlib.AbstractAsyncContextManager[None]
                turn = self._enabling if talks else contextlib.nullcontext()
                async with turn:
                    await self._bgp.set_session(neighbor, enabled=talks)
                port.session = talks
            except BirdError as error:
                logger.warning("port %d: %s: trying again", number, error)
                done = False
        if port.resolved != up:
            try:
                (self._neighbors.resolve if up else self._neighbors.forget)(number)
                port.resolved = up
            except OSError as error:
                logger.warning("port %d: %s: trying again", number, error)
                done = False
        if port.carrier != up:
            try:
                await asyncio.to_thread(self._set_carrier, number, up)
                port.carrier = up
            except OSError as error:
                logger.error("port %d: %s: trying again", number, error)
                done = False
        return done
