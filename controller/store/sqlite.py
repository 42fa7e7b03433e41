"""The state in one SQLite file, for a controller on one machine.

One thread writes: changes that come at the same time share a transaction, and so a wait for the disk. A
lock that the operating system lets go of with the process keeps a second controller out.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from controller.records import Event, Resting
from controller.store import codec
from controller.store.base import EVENTS_KEPT, Batch, Contents, LockedError, StaleError, StoreError
from duet_p4.model import Checked

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE vips (address TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE down_dips (vip TEXT NOT NULL, dip TEXT NOT NULL, PRIMARY KEY (vip, dip)) WITHOUT ROWID;
CREATE TABLE cut_off (server TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE resting (address TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    time    REAL NOT NULL,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE TABLE terms (term INTEGER NOT NULL);
INSERT INTO terms VALUES (0);
"""

_Answer = TypeVar("_Answer")


@dataclass
class _Job:
    """A piece of work for the thread; `alone` is one that is no part of a transaction of several."""

    work: Callable[[sqlite3.Connection], Any]
    done: Future[Any]
    alone: bool
    committed: Batch | None = None


class SqliteStore:
    """A `StateStore` in the file `path`. Safe to open again after any crash."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the file, and bring one of an earlier version up to date.

        Raises `LockedError` where another process has it, and `StoreError` for a file of a later version or
        that is none.
        """
        self._path = Path(path)
        self._lock = _lock(self._path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._watchers: set[asyncio.Queue[Batch]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._db = self._connect()
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            # What a long transaction would put into a temporary file: it may be allowed to write none.
            db.execute("PRAGMA temp_store=MEMORY")
            _migrate(db, self._path)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self._path}: {error}") from error
        return db

    @property
    def most(self) -> int:
        """See `StateStore`: more would hold up what comes after it."""
        return 1000

    async def load(self) -> Contents:
        """See `StateStore`."""
        return await self._do(lambda db: _load(db, self._path), alone=True)

    async def commit(self, batch: Batch) -> None:
        """See `StateStore`."""
        await self._do(lambda db: _apply(db, batch), committed=batch)

    async def next_term(self) -> int:
        """See `StateStore`."""

        def increase(db: sqlite3.Connection) -> int:
            db.execute("UPDATE terms SET term = term + 1")
            return int(db.execute("SELECT term FROM terms").fetchone()[0])

        return await self._do(increase)

    async def events(self, after: int | None, limit: int) -> list[Event]:
        """See `StateStore`."""
        return await self._do(lambda db: _events(db, after, limit), alone=True)

    async def watch(self) -> AsyncIterator[Batch]:
        """See `StateStore`: nobody else writes, so these are the batches committed here."""
        batches: asyncio.Queue[Batch] = asyncio.Queue()
        self._watchers.add(batches)
        try:
            while True:
                yield await batches.get()
        finally:
            self._watchers.discard(batches)

    async def close(self) -> None:
        """See `StateStore`."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()
        os.close(self._lock)

    async def _do(
        self,
        work: Callable[[sqlite3.Connection], _Answer],
        *,
        alone: bool = False,
        committed: Batch | None = None,
    ) -> _Answer:
        self._loop = asyncio.get_running_loop()
        job = _Job(work, Future(), alone, committed)
        self._jobs.put(job)
        answer: _Answer = await asyncio.wrap_future(job.done)
        return answer

    def _work(self) -> None:
        """Do jobs until told to end; those that wait at the same time are one transaction."""
        while True:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            todo = [job for job in jobs if job is not None and job.done.set_running_or_notify_cancel()]
            self._transact([job for job in todo if not job.alone])
            for job in todo:
                if job.alone:
                    self._read(job)
            if None in jobs:
                return

    def _transact(self, jobs: list[_Job]) -> None:
        """Do jobs in one transaction; one that fails by itself leaves no trace and stops no other."""
        if not jobs:
            return
        answers: list[tuple[_Job, Any]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._db.execute("SAVEPOINT job")
                try:
                    answers.append((job, job.work(self._db)))
                except StaleError as error:
                    self._db.execute("ROLLBACK TO job")
                    job.done.set_exception(error)
                self._db.execute("RELEASE job")
            self._db.execute("COMMIT")
        except Exception as error:
            # A COMMIT that fails leaves the transaction open, and every later one would fail with it.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(_said(error, self._path))
            return
        for job, answer in answers:
            job.done.set_result(answer)
            if job.committed is not None and self._watchers and self._loop is not None:
                self._loop.call_soon_threadsafe(self._tell, job.committed)

    def _tell(self, batch: Batch) -> None:
        for batches in self._watchers:
            batches.put_nowait(batch)

    def _read(self, job: _Job) -> None:
        try:
            job.done.set_result(job.work(self._db))
        except Exception as error:
            job.done.set_exception(_said(error, self._path))


def _said(error: Exception, path: Path) -> Exception:
    if isinstance(error, sqlite3.Error):
        said = StoreError(f"{path}: {error}")
        said.__cause__ = error
        return said
    return error


def _lock(path: Path) -> int:
    """Take the lock beside the file; the process that has it wrote its number there."""
    beside = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{beside}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        raise LockedError(
            f"{path} belongs to another controller that runs (process {owner or '?'})"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _load(db: sqlite3.Connection, path: Path) -> Contents:
    found = Contents()
    for address, version, text in db.execute("SELECT address, version, record FROM vips"):
        try:
            record = codec.decode(text)
        except ValueError as error:
            raise StoreError(f"{path}: the record of VIP {address} cannot be read: {error}") from error
        found.vips[record.address] = record, version
    for vip, dip in db.execute("SELECT vip, dip FROM down_dips"):
        found.down.add((IPv4Address(vip), Checked.of(dip)))
    found.cut_off = {server for (server,) in db.execute("SELECT server FROM cut_off")}
    for (text,) in db.execute("SELECT record FROM resting"):
        resting = Resting.model_validate_json(text, extra="ignore")
        found.resting[resting.address] = resting
    found.last_event = int(db.execute("SELECT COALESCE(MAX(id), 0) FROM events").fetchone()[0])
    return found


def _apply(db: sqlite3.Connection, batch: Batch) -> None:
    for record, version in batch.put:
        address, text = str(record.address), codec.encode(record)
        if version:
            change = "UPDATE vips SET version = ?, record = ? WHERE address = ? AND version = ?"
            cursor = db.execute(change, (version + 1, text, address, version))
        else:
            cursor = db.execute("INSERT OR IGNORE INTO vips VALUES (?, 1, ?)", (address, text))
        if cursor.rowcount != 1:
            raise StaleError(f"VIP {address} is not at version {version} any more")
    for vip, version in batch.delete:
        cursor = db.execute("DELETE FROM vips WHERE address = ? AND version = ?", (str(vip), version))
        if cursor.rowcount != 1:
            raise StaleError(f"VIP {vip} is not at version {version} any more")
        db.execute("DELETE FROM down_dips WHERE vip = ?", (str(vip),))
    for (vip, dip), down in batch.down.items():
        change = (
            "INSERT OR IGNORE INTO down_dips VALUES (?, ?)"
            if down
            else ("DELETE FROM down_dips WHERE vip = ? AND dip = ?")
        )
        db.execute(change, (str(vip), str(dip)))
    for server, cut_off in batch.cut_off.items():
        change = (
            "INSERT OR IGNORE INTO cut_off VALUES (?)" if cut_off else "DELETE FROM cut_off WHERE server = ?"
        )
        db.execute(change, (server,))
    for rests, resting in batch.resting.items():
        if resting is None:
            db.execute("DELETE FROM resting WHERE address = ?", (str(rests),))
        else:
            db.execute(
                "INSERT OR REPLACE INTO resting VALUES (?, ?)", (str(rests), resting.model_dump_json())
            )
    _add_events(db, batch.events)


def _add_events(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    last = 0
    for event in events:
        last = event.id
        row = (event.id, event.time, event.kind, event.subject, json.dumps(event.detail))
        db.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?)", row)
    if last:
        db.execute("DELETE FROM events WHERE id <= ?", (last - EVENTS_KEPT,))


def _events(db: sqlite3.Connection, after: int | None, limit: int) -> list[Event]:
    if after is not None:
        rows = db.execute("SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
    else:
        newest = "SELECT * FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) ORDER BY id"
        rows = db.execute(newest, (limit,)).fetchall()
    return [
        Event(id=row[0], time=row[1], kind=row[2], subject=row[3], detail=json.loads(row[4])) for row in rows
    ]


# Versions of the schema: a file is brought from one to the next in a transaction.


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this version's schema. Raises `StoreError` for one of a later version."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by a later version (schema {found}, this one knows {SCHEMA_VERSION}); "
            "what it says cannot be read without loss"
        )
    if found == SCHEMA_VERSION:
        return
    old = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    db.execute("BEGIN IMMEDIATE")
    try:
        if "vips" in old:
            _from_1(db)
        else:
            _create(db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _create(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            db.execute(statement)


def _from_1(db: sqlite3.Connection) -> None:
    """From the first schema, which stated no version: records as plain JSON, traffic beside them."""
    for table in ("vips", "down_dips", "events"):
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _create(db)
    for address, text in db.execute("SELECT address, record FROM old_vips").fetchall():
        db.execute("INSERT INTO vips VALUES (?, 1, ?)", (address, codec.encode(codec.decode(text))))
    # What was down for every VIP was down with its server's agent, which says nothing about it.
    db.execute("INSERT INTO down_dips SELECT vip, dip FROM old_down_dips WHERE vip != ''")
    db.execute("INSERT INTO events SELECT id, time, kind, subject, detail FROM old_events")
    for table in ("old_vips", "old_down_dips", "old_events", "traffic"):
        db.execute(f"DROP TABLE IF EXISTS {table}")
