"""Who leads: the controller that has put the `leader` key in etcd, while it keeps the key's lease alive.

A leader counts its lease's time from before it asked for more, so it knows that it has ended before etcd
does, whatever happens to it in between, a stop of its whole process included.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time

from pydantic import ValidationError

from controller.cluster.etcd import (
    CompactedError,
    EtcdClient,
    KeyValue,
    Transaction,
)
from controller.store.base import StoreError
from controller.store.etcd import Leadership
from duet_p4.model import Model

logger = logging.getLogger(__name__)

_CAREFUL = 0.9
"""Which part of its lease's time a leader uses: clocks do not run alike."""

_BEATS = 5
"""How often a lease is kept alive while it lasts."""

_LOOK_S = 0.5
_BEAT_S = 0.5

STUCK_S = 20.0
"""How long a leader's loop may do nothing before it is taken for stuck, and its lease given up."""


class LostError(StoreError):
    """The lease has ended."""


class Leader(Model):
    """Who leads, and where it answers."""

    name: str
    url: str
    term: int


class Candidate:
    """One controller's part in the elections below a prefix of etcd's keys."""

    def __init__(self, client: EtcdClient, prefix: str, name: str, url: str, ttl_s: float) -> None:
        self._client = client
        self._key = f"{prefix}leader"
        self._term = f"{prefix}term"
        self._commit = f"{prefix}commit"
        self._name = name
        self.url = url
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._current: Leadership | None = None
        self._until = 0.0
        self._beaten = 0.0

    def leads(self) -> bool:
        """Whether this controller may take itself for the leader now."""
        return time.monotonic() < self._until

    def myself(self, term: int) -> Leader:
        """Return what others read of this controller while it leads."""
        return Leader(name=self._name, url=self.url, term=term)

    async def leader(self) -> tuple[Leader, KeyValue] | None:
        """Return who leads, as a majority of etcd knows it, and the key that says so."""
        kv, _ = await self._client.get(self._key)
        if kv is None:
            return None
        try:
            return Leader.model_validate_json(kv.value), kv
        except ValidationError as error:
            raise StoreError(f"{kv.key} in etcd cannot be read: {error}") from error

    async def campaign(self) -> Leadership | None:
        """Become the leader where there is none; returns None where there is one."""
        before, _ = await self._client.get(self._term)
        version = before.version if before else 0
        began = time.monotonic()
        lease = await self._client.grant(math.ceil(self._ttl_s))
        term = version + 1
        said = self.myself(term).model_dump_json()
        transaction = Transaction().if_created(self._key, 0).if_version(self._term, version)
        transaction.put(self._key, said, lease=lease).put(self._term, self._name)
        transaction.put(self._commit, f"{term}/0").else_get(self._key)
        answer = await self._client.transact(transaction)
        revision = answer.revision
        if not answer.succeeded:
            (found,) = answer.found
            if found is None or found.lease != lease:
                await self._client.revoke(lease)
                return None
            revision = found.created  # An earlier try was carried out.
        leadership = self._current = Leadership(term, lease, revision)
        self._extend(leadership, began)
        return leadership

    async def keep(self, leadership: Leadership) -> None:
        """Keep the lease alive until it is lost: ends with `LostError`.

        A thread does so, as the controller's own loop may be busy for longer than a lease lasts; but not for
        a loop that has been stuck for `STUCK_S`.
        """
        ended = threading.Event()
        beating = asyncio.create_task(self._beat(), name="beat")
        try:
            raise LostError(await asyncio.to_thread(self._keep, leadership, ended))
        finally:
            ended.set()
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._beaten = time.monotonic()
            await asyncio.sleep(_BEAT_S)

    def _keep(self, leadership: Leadership, ended: threading.Event) -> str:
        self._beaten = time.monotonic()
        return asyncio.run(self._renew(leadership, ended))

    async def _renew(self, leadership: Leadership, ended: threading.Event) -> str:
        """Keep the lease alive until it is lost or `ended`; returns why it is lost."""
        async with self._client.another() as client:
            while not ended.is_set():
                began = time.monotonic()
                if began > self._until:
                    # It may have been stopped for so long that others took it for dead.
                    return "it was stopped for longer than its lease lasts"
                if began > self._beaten + STUCK_S:
                    return f"it has been stuck for {began - self._beaten:.0f} s"
                try:
                    async with asyncio.timeout(self._until - began):
                        left = await client.keep_alive(leadership.lease)
                    if not left:
                        return "its lease has ended"
                    self._extend(leadership, began)
                except (StoreError, TimeoutError) as error:
                    logger.warning("the lease is not kept alive: %s", error or "no answer")
                await asyncio.sleep(self._ttl_s / _BEATS)
        return "it was given up"

    async def resign(self, leadership: Leadership) -> None:
        """Lead no longer; another may at once."""
        self.step_down()
        await self._client.revoke(leadership.lease)

    def step_down(self) -> None:
        """Take oneself for the leader no longer."""
        with self._lock:
            self._current, self._until = None, 0.0

    def _extend(self, leadership: Leadership, asked: float) -> None:
        """Lead on, as the lease was kept alive by what was asked at a time, unless that is over."""
        with self._lock:
            if self._current is leadership:
                self._until = asked + _CAREFUL * self._ttl_s

    async def depose(self, leader: KeyValue) -> None:
        """End the lease of a leader that is dead for certain."""
        await self._client.revoke(leader.lease)

    async def await_vacancy(self) -> None:
        """Return once nobody leads."""
        while True:
            kv, revision = await self._client.get(self._key)
            if kv is None:
                return
            try:
                async with asyncio.timeout(_LOOK_S):
                    async for events in self._client.watch(self._key, f"{self._key}\0", revision + 1):
                        if any(event.deleted for event in events):
                            return
            except (TimeoutError, CompactedError):
                continue
