"""Who leads: the controller whose `leader` key is in etcd, and which puts that key again and again.

The key says for how long its leader may be silent: its lease. A leader counts that from before it puts the
key, and uses nine tenths of it. Others count from when they learned of that, and take the key away only if
it was not put meanwhile. So a leader knows that its time is over before another takes its place, whatever
happens to it in between, a stop of its whole process included.

etcd's own leases would be longer: it has all of them last anew when one of its members takes over from
another, which is just what happens where a leader goes together with the member beside it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import aclosing

from pydantic import ValidationError

from controller.cluster.etcd import CompactedError, EtcdAwayError, EtcdClient, KeyValue, Transaction
from controller.store.base import StoreError
from controller.store.etcd import Leadership
from duet_p4.model import Model

logger = logging.getLogger(__name__)

_CAREFUL = 0.9
"""Which part of its lease's time a leader uses: clocks do not run alike."""

_BEATS = 4
"""How often a lease is begun anew while it lasts."""

SILENCE = 0.6
"""For which part of a lease a member of etcd may tell nothing of its leader before another one is asked."""

_PAUSE_S = 0.05
_BEAT_S = 0.5

STUCK_S = 20.0
"""How long a leader's loop may do nothing before it is taken for stuck, and its lease given up."""


class LostError(StoreError):
    """The lease has ended."""


class Leader(Model):
    """Who leads, where it answers, and how long it may be silent."""

    name: str
    url: str
    term: int
    lease_s: float


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
        return Leader(name=self._name, url=self.url, term=term, lease_s=self._ttl_s)

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
        began = time.monotonic()
        before, _ = await self._client.get(self._term)
        version = before.version if before else 0
        term = version + 1
        said = self._said(term)
        transaction = Transaction().if_created(self._key, 0).if_version(self._term, version)
        transaction.put(self._key, said).put(self._term, self._name)
        transaction.put(self._commit, f"{term}/0").else_get(self._key)
        answer = await self._client.transact(transaction)
        revision = answer.revision
        if not answer.succeeded:
            (found,) = answer.found
            if found is None or found.value != said:
                return None
            revision = found.created  # An earlier try was carried out.
        leadership = self._current = Leadership(term, revision)
        self._extend(leadership, began)
        return leadership

    def _said(self, term: int) -> str:
        return self.myself(term).model_dump_json()

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
        beat = Transaction().if_created(self._key, leadership.revision)
        beat.put(self._key, self._said(leadership.term))
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
                        answer = await client.transact(beat)
                    if not answer.succeeded:
                        return "others have not heard of it for longer than its lease lasts"
                    self._extend(leadership, began)
                except (StoreError, TimeoutError) as error:
                    logger.warning("the lease is not kept alive: %s", error or "no answer")
                await asyncio.sleep(self._ttl_s / _BEATS)
        return "it was given up"

    async def resign(self, leadership: Leadership) -> None:
        """Lead no longer; another may at once."""
        self.step_down()
        await self._take_away(leadership.revision)

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
        """Take the place of a leader away that is dead for certain."""
        await self._take_away(leader.created)

    async def _take_away(self, created: int) -> None:
        await self._client.transact(Transaction().if_created(self._key, created).delete(self._key))

    async def outlast(self, leader: Leader, beat: KeyValue) -> None:
        """Return once a leader leads no longer: it gave up, or has not been heard of for a whole lease.

        `beat` is its key as it was read last.
        """
        heard = time.monotonic()
        while True:
            left_s = heard + leader.lease_s - time.monotonic()
            try:
                if left_s > 0:
                    watch = self._client.watch(
                        self._key, f"{self._key}\0", beat.modified + 1, SILENCE * leader.lease_s
                    )
                    async with asyncio.timeout(left_s) as patience, aclosing(watch) as told:
                        async for events in told:
                            for event in events:
                                if event.deleted:
                                    return
                                heard, beat = time.monotonic(), event.kv
                                patience.reschedule(asyncio.get_running_loop().time() + leader.lease_s)
                newest = await self.take_from(beat)
            except TimeoutError:
                continue
            except CompactedError:
                newest, _ = await self._client.get(self._key)
            except EtcdAwayError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if newest is None or newest.created != beat.created:
                return
            if newest.modified != beat.modified:
                heard = time.monotonic()
            beat = newest

    async def take_from(self, beat: KeyValue) -> KeyValue | None:
        """Take its place from a leader that has not been heard of since a beat; returns its key if it was."""
        transaction = Transaction().if_created(self._key, beat.created).if_modified(self._key, beat.modified)
        answer = await self._client.transact(transaction.delete(self._key).else_get(self._key))
        return None if answer.succeeded else answer.found[0]
