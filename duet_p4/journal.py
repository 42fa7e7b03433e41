"""What an agent holds, on disk: one SQLite file, one transaction for all that a request changes.

A change that was written survives a power cut. What cannot be read is set aside under a name that ends
in `.bad`, and said; the rest is used.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Generic, TypeVar

from duet_p4 import durable
from duet_p4.api.digest import text_of
from duet_p4.api.installed import Installed
from duet_p4.model import Model

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry", bound=Model)

_SCHEMA = """\
CREATE TABLE entries (
    address TEXT PRIMARY KEY, kind TEXT NOT NULL, entry TEXT NOT NULL, announced INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID"""
_ORIGINS = """\
CREATE TABLE origins (
    address TEXT PRIMARY KEY, installed_by TEXT, installed_at REAL
) WITHOUT ROWID"""


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class JournalError(Exception):
    """A journal cannot be written, or not be made; the message names the file."""


@dataclass(frozen=True, slots=True)
class Held(Generic[Entry]):
    """An entry that a device holds, and whether it announces it."""

    entry: Entry
    announced: bool


class Journal(Generic[Entry]):
    """Entries by address, in the file `path`; `kinds` names the models that they may be of.

    `load` and `write` may be called from any thread, one at a time.
    """

    def __init__(self, path: Path, kinds: Mapping[str, type[Entry]]) -> None:
        """Open the journal, or make one. Raises `JournalError` where neither can be done."""
        self._path = path
        self._kinds = dict(kinds)
        self._names = {model: name for name, model in kinds.items()}
        self._lock = threading.Lock()
        self.problems: list[str] = []
        """What could not be read, a sentence each."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"cannot keep a journal in {path}: {error}") from error

    def load(self) -> dict[IPv4Address, Held[Entry]]:
        """Return every entry, ordered by address. What is no entry is set aside."""
        found: dict[IPv4Address, Held[Entry]] = {}
        bad: list[tuple[object, ...]] = []
        with self._lock:
            for row in self._database.execute("SELECT * FROM entries"):
                held = self._held(row)
                if held is None:
                    bad.append(row)
                else:
                    found[IPv4Address(row[0])] = held
            for row in bad:
                aside = _free_name(self._path.parent, _file_name(row[0]))
                durable.write(aside, repr(row).encode())
                self._database.execute("DELETE FROM entries WHERE address = ?", (row[0],))
                self._say(f"an entry of {self._path} could not be read: set aside as {aside}")
        return dict(sorted(found.items()))

    def origins(self) -> dict[IPv4Address, Installed]:
        """Return who had each entry put, as far as that is known. What cannot be read is left out."""
        found = {}
        with self._lock:
            for address, by, at in self._database.execute("SELECT * FROM origins"):
                with contextlib.suppress(ValueError):
                    found[IPv4Address(str(address))] = Installed(at=at, by=by)
        return found

    def write(
        self,
        changes: Mapping[IPv4Address, Held[Entry] | None],
        origins: Mapping[IPv4Address, Installed] | None = None,
    ) -> None:
        """Write entries in place of those that their addresses have; None removes. All or nothing.

        `origins` says of those that are put who has had them put. On the disk once this returns. Raises
        `JournalError`.
        """
        told = [(str(address), one.by, one.at) for address, one in (origins or {}).items()]
        gone = [(str(address),) for address, held in changes.items() if held is None]
        put = [self._row(address, held) for address, held in changes.items() if held is not None]
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("DELETE FROM entries WHERE address = ?", gone)
                self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", put)
                self._database.executemany("DELETE FROM origins WHERE address = ?", gone)
                self._database.executemany("INSERT OR REPLACE INTO origins VALUES (?, ?, ?)", told)
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise JournalError(f"cannot write to {self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        if not self._path.exists():
            self._make({})
            return self._connect()
        database = None
        try:
            if not self._path.stat().st_size:
                raise sqlite3.DatabaseError("the file is empty")
            database = self._connect()
            schema = database.execute("SELECT sql FROM sqlite_master").fetchall()
            if schema == [(_SCHEMA,)]:
                database.execute(_ORIGINS)  # An older journal, which does not say who.
            elif schema != [(_SCHEMA,), (_ORIGINS,)]:
                raise sqlite3.DatabaseError("its schema is not that of a journal")
            if (verdict := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(verdict)
            return database
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) not in _DAMAGE:
                raise
            saved = self._salvage(database) if database else {}
            self._set_aside(f"{error}", len(saved))
            self._make(saved)
            return self._connect()

    def _salvage(self, database: sqlite3.Connection) -> dict[str, tuple[object, ...]]:
        """Read a damaged file from both ends, and return the entries that are whole."""
        saved: dict[str, tuple[object, ...]] = {}
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                for row in database.execute(f"SELECT * FROM entries ORDER BY address {order}"):
                    if self._held(row) is not None:
                        saved[str(row[0])] = row
        database.close()
        return saved

    def _set_aside(self, why: str, saved: int) -> None:
        aside = _free_name(self._path.parent, self._path.name)
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self._path}{suffix}")
            if part.exists():
                part.replace(f"{aside}{suffix}")
        self._say(f"{self._path} is damaged ({why}): set aside as {aside}, {saved} entries saved")

    def _make(self, rows: Mapping[str, tuple[object, ...]]) -> None:
        """Make the file, which is there whole or not at all."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.unlink(missing_ok=True)
        database = sqlite3.connect(partial, isolation_level=None)
        database.execute(_SCHEMA)
        database.execute(_ORIGINS)
        database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows.values())
        database.close()
        partial.replace(self._path)
        durable.sync_folder(self._path.parent)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        database.text_factory = lambda raw: raw.decode(errors="replace")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        return database

    def _row(self, address: IPv4Address, held: Held[Entry]) -> tuple[object, ...]:
        kind, text = self._names[type(held.entry)], text_of(held.entry).decode()
        return (str(address), kind, text, int(held.announced), _checksum(kind, text, int(held.announced)))

    def _held(self, row: tuple[object, ...]) -> Held[Entry] | None:
        """Return what a row says, or None for one that is damaged."""
        try:
            address, kind, text, announced, checksum = row
            if checksum != _checksum(kind, text, announced):
                return None
            entry = self._kinds[str(kind)].model_validate_json(str(text))
            if getattr(entry, "address", None) != IPv4Address(str(address)):
                return None
        except (ValueError, KeyError):
            return None
        return Held(entry, bool(announced))

    def _say(self, problem: str) -> None:
        logger.error("%s", problem)
        self.problems.append(problem)


def _checksum(*parts: object) -> int:
    return zlib.crc32("\n".join(map(str, parts)).encode(errors="surrogatepass"))


def _file_name(address: object) -> str:
    """Return a name for what is set aside: the address, if it is one."""
    try:
        return str(IPv4Address(str(address)))
    except ValueError:
        return "entry"


def _free_name(folder: Path, stem: str) -> Path:
    return next(path for path in _names(folder, stem) if not path.exists())


def _names(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}.bad"
    number = 2
    while True:
        yield folder / f"{stem}-{number}.bad"
        number += 1
