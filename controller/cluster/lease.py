"""Who leads: the controller that has put the `leader` key in etcd, while it keeps the key's lease alive.

A leader counts its lease's time from before it asked for more, so it knows that it has ended before etcd
does, whatever happens to it in between, a stop of its whole process included.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from pydantic import ValidationError

from controller.cluster.etcd import (
    CompactedError,
    EtcdAwayError,
    EtcdClient,
    EtcdError,
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
        self._until = 0.0

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
        self._until = began + _CAREFUL * self._ttl_s
        return Leadership(term, lease, revision)

    async def keep(self, leadership: Leadership) -> None:
        """Keep the lease alive until it is lost: ends with `LostError`."""
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(0.05, self._until - began)):
                    left = await self._client.keep_alive(leadership.lease)
                if not left:
                    raise LostError("its lease has ended")
                if began > self._until:
                    # It may have been stopped for so long that others took it for dead.
                    raise LostError("it was stopped for longer than its lease lasts")
                self._until = began + _CAREFUL * self._ttl_s
            except (EtcdAwayError, EtcdError, TimeoutError) as error:
                if not self.leads():
                    raise LostError(f"its lease cannot be kept alive: {error or 'no answer'}") from error
                logger.warning("the lease is not kept alive: %s", error or "no answer")
            await asyncio.sleep(self._ttl_s / _BEATS)

    async def resign(self, leadership: Leadership) -> None:
        """Lead no longer; another may at once."""
        self._until = 0.0
        await self._client.revoke(leadership.lease)

    def step_down(self) -> None:
        """Take oneself for the leader no longer."""
        self._until = 0.0

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
