"""One controller of several: it follows the leader, or leads.

A follower keeps the whole state in memory by watching etcd. It answers from there what can be read, as of
the newest commit that a majority knows; everything else it passes on to the leader. A new leader begins with
the state it followed; its first word to every device states its term, so that nothing that its predecessor
may still say is heard.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.access import ACCESS, BODIES
from controller.cluster import status
from controller.cluster.etcd import CompactedError, EtcdClient, KeyValue
from controller.cluster.lease import SILENCE, Candidate, Leader, LostError
from controller.cluster.relay import Relay, asked_by, refuse
from controller.config import ControllerConfig
from controller.events import EventLog
from controller.inventory import Inventory
from controller.state import State
from controller.store.base import StateStore, StoreError
from controller.store.etcd import EtcdStore, Leadership, NotLeaderError
from controller.updater import reads
from duet_p4.api.service import Health
from duet_p4.api.service import State as ServiceState
from duet_p4.identity import Credentials
from duet_p4.rest.access import Guard
from duet_p4.rest.app import create_app
from duet_p4.rest.bounds import BodyBound

logger = logging.getLogger(__name__)

_PAUSE_S = 0.05
_HISTORY_S = 60.0
_PROBE_S = 0.2
_PROBES = 2
"""A leader whose port was closed so often, in a row, is dead: its machine answers, it does not."""

_CATCH_UP_S = 2.0
_OWN = frozenset({"/healthz", "/v1/cluster", "/v1/identity"})
_READ = re.compile(r"^/(v1/(vips(/[0-9.]+)?|assignment|events(/stream)?))$")


@dataclass
class Foundation:
    """What an updater stands on: the state, where it is stored, and the term in which it may change it.

    `leads` says whether it still may; without a cluster it always does.
    """

    state: State
    store: StateStore
    term: int
    last_event: int
    leads: Callable[[], bool] = lambda: True


class Leading(Protocol):
    """A controller at work."""

    @property
    def app(self) -> FastAPI:
        """What answers its requests."""

    def health(self) -> Health:
        """Say how it is."""

    async def run(self) -> None:
        """Do its work until cancelled."""


Lead = Callable[[Foundation, AsyncExitStack], Awaitable[Leading]]


class Member:
    """An ASGI application, and what it does by itself (`run`). `lead` makes a controller that leads."""

    def __init__(
        self,
        config: ControllerConfig,
        credentials: Credentials | None,
        inventory: Inventory,
        client: EtcdClient,
        lead: Lead,
    ) -> None:
        assert config.cluster is not None
        self.config = config.cluster
        self._inventory = inventory
        self._client = client
        self._lead = lead
        self._candidate = Candidate(client, self.config.prefix, self.config.name, "", self.config.lease_s)
        self._store = self._new_store()
        self._state: State | None = None
        self._events: EventLog | None = None
        self._applied = 0
        self._moved = asyncio.Condition()
        self._leader: Leader | None = None
        self._leading: Leading | None = None
        self._problem = "it has not begun"
        access = None if config.insecure else ACCESS
        self._ways = Relay(self.config.name, self._look_up, credentials)
        bounded = BodyBound(self._ways, BODIES)
        self._relay: ASGIApp = bounded if access is None else Guard(bounded, access)
        self._follower = create_app(
            "DUET controller", access=access, credentials=credentials, bodies=BODIES, health=self._health
        )
        self._follower.include_router(reads.router(self._known_state, self._known_events))
        self._follower.include_router(status.router(self.status))

    async def close(self) -> None:
        """Close connections."""
        await self._ways.close()

    def status(self) -> status.ClusterStatus:
        """Return this controller's part."""
        return status.ClusterStatus(
            name=self.config.name,
            leads=self._leading is not None and self._candidate.leads(),
            leader=self._leader,
            vips=len(self._state) if self._state is not None else None,
        )

    async def run(self, url: str) -> None:
        """Follow and lead by turns, until cancelled; `url` is where other controllers reach this one."""
        self._candidate.url = url
        while True:
            try:
                leadership = await self._follow()
                await self._reign(leadership)
            except LostError as error:
                logger.warning("leads no longer: %s", error)
            except StoreError as error:
                self._problem = str(error)
                logger.warning("cannot follow: %s", error)
            await asyncio.sleep(_PAUSE_S)

    # To follow

    def _new_store(self) -> EtcdStore:
        config = self.config
        return EtcdStore(
            self._client,
            config.prefix,
            self._candidate.leads,
            transaction=config.transaction,
            silent_s=SILENCE * config.lease_s,
        )

    async def _follow(self) -> Leadership:
        """Keep up with the leader until this controller is elected, and then with its predecessor."""
        self._state, self._store = None, self._new_store()
        contents, revision = await self._store.load_at()
        self._applied = revision
        self._events = EventLog(self._store, contents.last_event)
        self._state = State(self._store, contents, self._inventory)
        self._problem = ""
        watching = asyncio.create_task(self._watch(), name="watch")
        election = asyncio.create_task(self._be_elected(), name="election")
        try:
            await asyncio.wait({watching, election}, return_when=asyncio.FIRST_COMPLETED)
            if not election.done():
                await watching  # It ended with an error.
            leadership = await election
            if not await self._caught_up(leadership.revision):
                await self._candidate.resign(leadership)
                raise StoreError("elected, but what was committed before does not come")
            return leadership
        finally:
            for task in (watching, election):
                task.cancel()
            await asyncio.gather(watching, election, return_exceptions=True)

    async def _watch(self) -> None:
        """Take over whatever is committed."""
        while True:
            try:
                await self._hear()
            except CompactedError:
                raise
            except StoreError as error:
                logger.info("the watch is begun again: %s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _hear(self) -> None:
        state, events = self._known_state(), self._known_events()
        async for batch in self._store.watch():
            state.take_over(batch)
            self._applied = max(self._applied, batch.revision)
            async with self._moved:
                self._moved.notify_all()
            if batch.events:
                await events.heard(batch.events[-1].id)

    async def _caught_up(self, revision: int) -> bool:
        """Wait until what was committed up to a revision is in memory; returns whether it is, in time."""
        try:
            async with asyncio.timeout(_CATCH_UP_S), self._moved:
                return await self._moved.wait_for(lambda: self._applied >= revision)
        except TimeoutError:
            return False

    async def _be_elected(self) -> Leadership:
        while True:
            try:
                found = await self._candidate.leader()
                self._leader = found[0] if found else None
                if found is None:
                    if leadership := await self._candidate.campaign():
                        return leadership
                elif found[0].name == self.config.name:
                    # Its own, of a life before this one.
                    await self._candidate.depose(found[1])
                elif await self._outlast(*found):
                    await self._candidate.depose(found[1])
            except StoreError as error:
                logger.warning("no election: %s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _outlast(self, leader: Leader, beat: KeyValue) -> bool:
        """Return once a leader leads no longer, or is seen to be dead: whether it is."""
        silence = asyncio.create_task(self._candidate.outlast(leader, beat), name="silence")
        death = asyncio.create_task(_await_death(leader.url), name="death")
        try:
            await asyncio.wait({silence, death}, return_when=asyncio.FIRST_COMPLETED)
            if silence.done():
                await silence
                return False
            return True
        finally:
            for task in (silence, death):
                task.cancel()
            await asyncio.gather(silence, death, return_exceptions=True)

    # To lead

    async def _reign(self, leadership: Leadership) -> None:
        """Lead until the lease is lost: ends with `LostError`."""
        keeping = asyncio.create_task(self._candidate.keep(leadership), name="lease")
        self._leader = self._candidate.myself(leadership.term)
        try:
            async with AsyncExitStack() as stack:
                state, events = self._known_state(), self._known_events()
                self._store.lead(leadership)
                foundation = Foundation(
                    state, self._store, leadership.term, events.last, self._candidate.leads
                )
                leading = await self._lead(foundation, stack)
                work = asyncio.create_task(leading.run(), name="lead")
                deposed = asyncio.create_task(self._store.deposed.wait(), name="deposed")
                history = asyncio.create_task(self._forget_old(), name="history")
                self._leading = leading
                logger.info("%s leads, with term %d", self.config.name, leadership.term)
                try:
                    await asyncio.wait({keeping, work, deposed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._leading = None
                    self._candidate.step_down()
                    for task in (work, deposed, history):
                        task.cancel()
                    await asyncio.gather(work, deposed, history, return_exceptions=True)
                if keeping.done():
                    await keeping
                raise LostError("it was deposed")
        finally:
            self._leader = None
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._resign(leadership)

    async def _forget_old(self) -> None:
        while True:
            await asyncio.sleep(_HISTORY_S)
            try:
                await self._store.forget_old()
            except StoreError as error:
                logger.info("etcd keeps its history: %s", error)

    async def _resign(self, leadership: Leadership) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._candidate.resign(leadership)
        except (StoreError, TimeoutError) as error:
            logger.warning("the lease ends by itself: %s", error or "no answer")

    # To answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return
        scope = asked_by(scope)
        path, reading = scope["path"], scope["method"] in ("GET", "HEAD")
        if path in _OWN:
            await self._follower(scope, receive, send)
        elif (leading := self._leading) is not None and self._candidate.leads():
            if reading:
                await self._known_state().settled()
                send = self._while_leading(scope, receive, send)
            await leading.app(scope, receive, send)
        elif reading and _READ.match(path):
            await self._read(scope, receive, send)
        else:
            await self._relay(scope, receive, send)

    def _while_leading(self, scope: Scope, receive: Receive, send: Send) -> Send:
        """Return what sends an answer only where what was read was the newest then: this controller led."""
        withheld = False

        async def checked(message: Message) -> None:
            nonlocal withheld
            if message["type"] == "http.response.start" and not self._candidate.leads():
                withheld = True
                await refuse(scope, receive, send, f"{self.config.name} leads no longer: ask again")
            elif not withheld:
                await send(message)

        return checked

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from memory, once that is as new as what a majority of etcd knew after the request came."""
        try:
            current = self._state is not None and await self._caught_up(await self._store.committed())
        except StoreError as error:
            await refuse(scope, receive, send, str(error))
            return
        if current and self._state is not None:
            await self._follower(scope, receive, send)
        else:
            await refuse(scope, receive, send, f"{self.config.name} does not know the newest state")

    async def _look_up(self) -> Leader | None:
        """Return who leads; asked of etcd where it is not known."""
        if self._leader is None:
            try:
                found = await self._candidate.leader()
            except StoreError:
                return None
            return found[0] if found else None
        return self._leader

    def _known_state(self) -> State:
        if self._state is None:
            raise NotLeaderError(f"{self.config.name} has no state yet")
        return self._state

    def _known_events(self) -> EventLog:
        if self._events is None:
            raise NotLeaderError(f"{self.config.name} has no state yet")
        return self._events

    def _health(self) -> Health:
        if self._leading is not None and self._candidate.leads():
            return self._leading.health()
        if self._problem:
            return Health(state=ServiceState.DEGRADED, detail=self._problem)
        if self._leader is None:
            return Health(state=ServiceState.DEGRADED, detail="nobody leads")
        return Health(state=ServiceState.READY, detail=f"follows {self._leader.name}")


async def _await_death(url: str) -> None:
    """Return once the machine at `url` says again and again that nobody listens there."""
    parts = urlsplit(url)
    closed = 0
    while closed < _PROBES:
        await asyncio.sleep(_PROBE_S)
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.close()
            closed = 0
        except ConnectionRefusedError:
            closed += 1
        except OSError:
            closed = 0
