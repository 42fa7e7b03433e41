"""The state in etcd, for several controllers of which one leads.

Keys below a prefix: `vips/ADDRESS`, whose version is the VIP's; `down/VIP/DIP[/CHECK]`, `cut-off/SERVER`,
`resting/ADDRESS`, `events/NUMBER`; `leader`, which its leader puts again and again; `term`, which every
leader puts once; and `commit`, which every commit puts.

A commit is one transaction that is done only while this controller leads and `commit` is what this
controller put last. So one whose answer is lost can be asked for again: it is done once, or never. Commits
that come at the same time share a transaction, as in `sqlite`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.cluster.etcd import (
    EtcdAwayError,
    EtcdClient,
    EtcdError,
    KeyEvent,
    KeyValue,
    Transaction,
    prefix_end,
)
from controller.records import Event, Resting
from controller.store import codec
from controller.store.base import EVENTS_KEPT, Batch, Contents, StaleError, StoreError
from duet_p4.model import Checked

TRANSACTION = 128
"""How many operations etcd takes in a transaction unless told otherwise (--max-txn-ops)."""

_KEPT_REVISIONS = 10_000
_COMPACT_EVERY = 5_000


class NotLeaderError(StoreError):
    """This controller does not lead, or no longer; nothing was changed."""


class DoubtError(NotLeaderError):
    """This controller no longer leads, and it cannot tell whether its last change was made."""


@dataclass(frozen=True)
class Leadership:
    """What a leader was elected with: its term, and the revision of its election."""

    term: int
    revision: int


@dataclass
class _Waiting:
    batch: Batch
    done: asyncio.Future[None]


class EtcdStore:
    """A `StateStore` in etcd. Reads are anybody's; to commit, `lead` must have been called.

    `leads` says whether this controller may still take itself for the leader. To whoever watches, there is
    something new all the time, if only the leader's key: a member of etcd that tells nothing for `silent_s`
    is left for another.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        leads: Callable[[], bool],
        *,
        transaction: int = TRANSACTION,
        silent_s: float | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._leads = leads
        self._most = transaction
        self._silent_s = silent_s
        self._leadership: Leadership | None = None
        self._last = 0
        self._number = 0
        self._compacted = 0
        self._queue: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._watched_from = 0
        self.deposed = asyncio.Event()

    @property
    def most(self) -> int:
        """See `StateStore`: a third, as a VIP that changes may have a TIP or two that rest."""
        return max(1, self._most // 3)

    def lead(self, leadership: Leadership) -> None:
        """Commit as the leader from now on."""
        self._leadership = leadership
        self._last = self._compacted = leadership.revision

    async def load(self) -> Contents:
        """See `StateStore`; `watch` goes on from there."""
        return (await self.load_at())[0]

    async def load_at(self) -> tuple[Contents, int]:
        """Return all there is, and at which revision it was so."""
        found = Contents()
        revision = 0
        async for page, at in self._pages("vips/", revision):
            revision = at
            for kv in page:
                try:
                    record = codec.decode(kv.value)
                except ValueError as error:
                    raise StoreError(f"{kv.key} in etcd cannot be read: {error}") from error
                found.vips[record.address] = record, kv.version
        async for page, _ in self._pages("down/", revision):
            found.down |= {self._down(kv.key) for kv in page}
        async for page, _ in self._pages("cut-off/", revision):
            found.cut_off |= {self._name(kv.key, "cut-off/") for kv in page}
        async for page, _ in self._pages("resting/", revision):
            for kv in page:
                resting = Resting.model_validate_json(kv.value, extra="ignore")
                found.resting[resting.address] = resting
        if newest := await self.events(None, 1):
            found.last_event = newest[-1].id
        self._watched_from = revision + 1
        return found, revision

    async def commit(self, batch: Batch) -> None:
        """See `StateStore`. Raises `NotLeaderError` as well."""
        waiting = [_Waiting(part, asyncio.get_running_loop().create_future()) for part in self._parts(batch)]
        self._queue += waiting
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="store")
        await asyncio.gather(*(item.done for item in waiting))

    async def next_term(self) -> int:
        """See `StateStore`: it came with the election."""
        if self._leadership is None:
            raise NotLeaderError("this controller does not lead")
        return self._leadership.term

    async def events(self, after: int | None, limit: int) -> list[Event]:
        """See `StateStore`."""
        start, end = f"{self._prefix}events/", prefix_end(f"{self._prefix}events/")
        if after is None:
            newest = await self._client.newest(start, end, limit)
            return [Event.model_validate_json(kv.value) for kv in reversed(newest)]
        events: list[Event] = []
        async for page, _ in self._client.pages(f"{start}{after + 1:016d}", end):
            events += [Event.model_validate_json(kv.value) for kv in page]
            if len(events) >= limit:
                break
        return events[:limit]

    async def watch(self) -> AsyncIterator[Batch]:
        """See `StateStore`: what was committed since `load`, whoever did.

        Each batch has its `revision`. What says nothing of the state (who leads) comes as an empty one.
        """
        end = prefix_end(self._prefix)
        async for events in self._client.watch(self._prefix, end, self._watched_from, self._silent_s):
            for batch in self._batches(events):
                self._watched_from = batch.revision + 1
                yield batch

    async def committed(self) -> int:
        """Return the revision of the newest commit, as a majority knows it."""
        kv, _ = await self._client.get(f"{self._prefix}commit")
        return kv.modified if kv else 0

    async def forget_old(self) -> None:
        """Let etcd forget all but its newest revisions; a follower so far behind loads anew."""
        _, newest = await self._client.get(f"{self._prefix}commit")
        if newest - self._compacted >= _KEPT_REVISIONS + _COMPACT_EVERY:
            await self._client.compact(newest - _KEPT_REVISIONS)
            self._compacted = newest - _KEPT_REVISIONS

    async def close(self) -> None:
        """See `StateStore`."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    # To commit

    def _parts(self, batch: Batch) -> list[Batch]:
        """Split what need not be done together: all but VIPs and what rests with them."""
        if batch.put or batch.delete:
            return [batch]
        parts = [Batch()]
        room = self.most

        def part() -> Batch:
            last = parts[-1]
            if len(last.down) + len(last.cut_off) + len(last.resting) + len(last.events) >= room:
                parts.append(Batch())
            return parts[-1]

        for pair, down in batch.down.items():
            part().down[pair] = down
        for server, cut_off in batch.cut_off.items():
            part().cut_off[server] = cut_off
        for address, resting in batch.resting.items():
            part().resting[address] = resting
        for event in batch.events:
            part().events.append(event)
        return parts

    async def _write(self) -> None:
        while self._queue:
            group = self._group()
            try:
                await self._commit([item.batch for item in group])
            except StaleError as error:
                if len(group) == 1:
                    _end(group, error)
                    continue
                for item in group:
                    try:
                        await self._commit([item.batch])
                    except StoreError as own:
                        _end([item], own)
                    else:
                        _end([item], None)
            except StoreError as error:
                _end(group, error)
            except BaseException as error:
                _end([*group, *self._queue], StoreError(f"the store failed: {error!r}"))
                self._queue.clear()
                raise
            else:
                _end(group, None)

    def _group(self) -> list[_Waiting]:
        """Take as many batches as fit into a transaction; of those that are about the same, the first."""
        group: list[_Waiting] = []
        about: set[str] = set()
        size = 0
        while self._queue:
            batch = self._queue[0].batch
            own, weight = _about(batch), _weight(batch)
            if group and (own & about or size + weight > self._most - 4):
                break
            about |= own
            size += weight
            group.append(self._queue.pop(0))
        return group

    async def _commit(self, batches: list[Batch]) -> None:
        """Do all of some batches, or none."""
        leadership = self._leadership
        if leadership is None or not self._leads():
            raise NotLeaderError("this controller does not lead")
        self._number += 1
        mark = f"{leadership.term}/{self._number}"
        transaction = self._transaction(leadership, mark, batches)
        while True:
            try:
                answer = await self._client.transact(transaction)
                break
            except EtcdAwayError as error:
                if not self._leads():
                    self.deposed.set()
                    raise DoubtError(f"whether the change was made is not known: {error}") from error
                await asyncio.sleep(0.05)
            except EtcdError as error:
                raise StoreError(f"{error} (etcd's --max-txn-ops, --max-request-bytes?)") from error
        if answer.succeeded:
            self._last = answer.revision
            return
        commit, leader = answer.found
        if commit is not None and commit.value == mark:  # An earlier try was carried out.
            self._last = commit.modified
            return
        if leader is None or leader.created != leadership.revision:
            self.deposed.set()
            raise NotLeaderError("another controller leads now")
        if commit is None or commit.modified != self._last:
            self.deposed.set()
            raise NotLeaderError(f"somebody who does not lead wrote to etcd: {commit}")
        raise StaleError("a VIP is not at the version that was seen any more")

    def _transaction(self, leadership: Leadership, mark: str, batches: Iterable[Batch]) -> Transaction:
        prefix = self._prefix
        made = Transaction().if_created(f"{prefix}leader", leadership.revision)
        made.if_modified(f"{prefix}commit", self._last)
        made.put(f"{prefix}commit", mark)
        made.else_get(f"{prefix}commit").else_get(f"{prefix}leader")
        kept: int | None = None
        for batch in batches:
            for record, version in batch.put:
                key = f"{prefix}vips/{record.address}"
                made.if_version(key, version).put(key, codec.encode(record))
            for vip, version in batch.delete:
                key = f"{prefix}vips/{vip}"
                made.if_version(key, version).delete(key)
                made.delete(f"{prefix}down/{vip}/", prefix_end(f"{prefix}down/{vip}/"))
            for (vip, dip), down in batch.down.items():
                _set(made, f"{prefix}down/{vip}/{dip}", "" if down else None)
            for server, cut_off in batch.cut_off.items():
                _set(made, f"{prefix}cut-off/{server}", "" if cut_off else None)
            for address, resting in batch.resting.items():
                text = None if resting is None else resting.model_dump_json()
                _set(made, f"{prefix}resting/{address}", text)
            for event in batch.events:
                made.put(f"{prefix}events/{event.id:016d}", event.model_dump_json())
                kept = event.id - EVENTS_KEPT
        if kept is not None and kept > 0:
            made.delete(f"{prefix}events/", f"{prefix}events/{kept + 1:016d}")
        return made

    # To read

    def _pages(self, kind: str, revision: int) -> AsyncIterator[tuple[list[KeyValue], int]]:
        start = f"{self._prefix}{kind}"
        return self._client.pages(start, prefix_end(start), revision)

    def _name(self, key: str, kind: str) -> str:
        return key.removeprefix(f"{self._prefix}{kind}")

    def _down(self, key: str) -> tuple[IPv4Address, Checked]:
        vip, _, checked = self._name(key, "down/").partition("/")
        return IPv4Address(vip), Checked.of(checked)

    def _batches(self, events: Iterable[KeyEvent]) -> Iterable[Batch]:
        """Return what some changes of keys are, one batch for each revision."""
        batches: dict[int, Batch] = {}
        for event in events:
            revision = event.kv.modified
            self._add(batches.setdefault(revision, Batch(revision=revision)), event)
        return batches.values()

    def _add(self, batch: Batch, event: KeyEvent) -> None:
        kind, _, name = self._name(event.kv.key, "").partition("/")
        match kind:
            case "vips" if event.deleted:
                batch.delete.append((IPv4Address(name), 0))
            case "vips":
                batch.put.append((codec.decode(event.kv.value), event.kv.version - 1))
            case "down":
                batch.down[self._down(event.kv.key)] = not event.deleted
            case "cut-off":
                batch.cut_off[name] = not event.deleted
            case "resting":
                resting = None if event.deleted else Resting.model_validate_json(event.kv.value)
                batch.resting[IPv4Address(name)] = resting
            case "events" if not event.deleted:
                batch.events.append(Event.model_validate_json(event.kv.value))
            case _:
                pass


def _set(transaction: Transaction, key: str, value: str | None) -> None:
    if value is None:
        transaction.delete(key)
    else:
        transaction.put(key, value)


def _about(batch: Batch) -> set[str]:
    """Return the names of what a batch changes: etcd takes a key once in a transaction."""
    found = {f"vip {record.address}" for record, _ in batch.put}
    found |= {f"vip {vip}" for vip, _ in batch.delete}
    found |= {f"vip {vip}" for vip, _ in batch.down}
    found |= {f"server {server}" for server in batch.cut_off}
    found |= {f"resting {address}" for address in batch.resting}
    return found | ({"events"} if batch.events else set())


def _weight(batch: Batch) -> int:
    changes = len(batch.put) + 2 * len(batch.delete) + len(batch.down)
    return changes + len(batch.cut_off) + len(batch.resting) + len(batch.events)


def _end(group: Iterable[_Waiting], error: StoreError | None) -> None:
    for item in group:
        if item.done.done():
            continue
        if error is None:
            item.done.set_result(None)
        else:
            item.done.set_exception(error)
