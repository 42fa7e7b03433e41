"""The controller's memory: desired state, events and traffic history in one SQLite file.

A change is acknowledged only once it is committed here, so kill -9 loses nothing that was
acknowledged. What switches and SMuxes hold is never stored: it is read back from them.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from duet_p4.model import Model, MuxTip, MuxVip, Vip

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vips (
    address TEXT PRIMARY KEY,
    record  TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS down_dips (
    vip     TEXT NOT NULL,
    dip     TEXT NOT NULL,
    PRIMARY KEY (vip, dip)
);
CREATE TABLE IF NOT EXISTS events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time    REAL NOT NULL,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS traffic (
    time    REAL NOT NULL,
    vip     TEXT NOT NULL,
    source  TEXT NOT NULL,
    dip     TEXT NOT NULL,
    bps     REAL NOT NULL,
    pps     REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS traffic_time ON traffic (time);
"""


ON_SMUXES = "smux"
"""What an operator says in place of a switch's name: the SMuxes."""


class Carried(Model):
    """What a switch may carry: `switch` is the one that shall; None leaves it to the SMuxes."""

    switch: str | None = None
    returning: str | None = Field(
        default=None,
        description="The switch that it waits for on the SMuxes: until the flows of a change have settled, "
        "or there is room",
    )

    @property
    def home(self) -> str | None:
        """The switch where it belongs: the one that carries it, or that it waits for."""
        return self.switch or self.returning


class PlacedTip(Carried):
    """A share of a large VIP's DIPs, and the switch that carries it."""

    tip: MuxTip


class VipRecord(Carried):
    """All that is wanted of one VIP.

    `spec` is what the operator said, `layout` its slot tables as every mux shall hold them.
    """

    spec: Vip
    layout: MuxVip
    tips: tuple[PlacedTip, ...] = ()
    held: bool = Field(
        default=False, description="An operator placed it by hand; the engine does not move it"
    )
    revision: int = 1

    @property
    def address(self) -> IPv4Address:
        """The VIP."""
        return self.spec.address

    def left_out(self) -> set[IPv4Address]:
        """Return the DIPs that are out of service: stated, but in no group."""
        served = {dip.address for group in self.layout.groups() for dip in group.members}
        served |= {dip.address for placed in self.tips for dip in placed.tip.group.members}
        return {dip.address for dip in self.spec.all_dips()} - served

    def carried(self) -> dict[IPv4Address, Carried]:
        """Return the VIP and its TIPs."""
        return {self.address: self, **{placed.tip.address: placed for placed in self.tips}}


class Event(Model):
    """Something that happened: a failure, a change, a repair."""

    id: int
    time: float
    kind: str
    subject: str
    detail: dict[str, JsonValue]


class TrafficSample(Model):
    """Mean traffic of one VIP from one ingress switch to one DIP over a monitoring interval."""

    vip: IPv4Address
    source: str
    dip: IPv4Address
    bps: float
    pps: float


class Store:
    """The SQLite file. Safe to open again after any crash; one process writes at a time."""

    EVENTS_KEPT = 10_000
    TRAFFIC_KEPT_SECONDS = 3 * 3600.0

    def __init__(self, path: Path | str) -> None:
        """Open or create the store at `path` (":memory:" for a throw-away one)."""
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def vips(self) -> dict[IPv4Address, VipRecord]:
        """Return every wanted VIP, in address order."""
        rows = self._db.execute("SELECT record FROM vips").fetchall()
        records = [VipRecord.model_validate_json(row[0]) for row in rows]
        return {record.address: record for record in sorted(records, key=lambda r: r.address)}

    def vip(self, address: IPv4Address) -> VipRecord | None:
        """Return one wanted VIP, or None."""
        row = self._db.execute("SELECT record FROM vips WHERE address = ?", (str(address),)).fetchone()
        return VipRecord.model_validate_json(row[0]) if row else None

    def put_vips(self, records: Iterable[VipRecord]) -> None:
        """Add or replace VIPs, all or none."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO vips VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET record = excluded.record",
                [(str(record.address), record.model_dump_json()) for record in records],
            )

    def delete_vip(self, address: IPv4Address) -> None:
        """Forget a VIP, and which DIPs were down for it; one that is not there is no error."""
        with self._transaction():
            self._db.execute("DELETE FROM vips WHERE address = ?", (str(address),))
            self._db.execute("DELETE FROM down_dips WHERE vip = ?", (str(address),))

    def down_dips(self, vip: IPv4Address | None = None) -> set[IPv4Address]:
        """Return the DIPs that are down for a VIP: by its own check, or with their server.

        Without a VIP, those that are down for any.
        """
        rows = self._db.execute("SELECT vip, dip FROM down_dips").fetchall()
        return {IPv4Address(dip) for of, dip in rows if vip is None or of in ("", str(vip))}

    def set_dips_down(
        self, dips: Iterable[IPv4Address], down: bool, vip: IPv4Address | None = None
    ) -> set[IPv4Address]:
        """Remember whether DIPs are down for a VIP (None: for all); return those of which that is new."""
        of = "" if vip is None else str(vip)
        change = (
            "INSERT OR IGNORE INTO down_dips VALUES (?, ?)"
            if down
            else "DELETE FROM down_dips WHERE vip = ? AND dip = ?"
        )
        with self._transaction():
            return {dip for dip in dips if self._db.execute(change, (of, str(dip))).rowcount > 0}

    def add_event(self, kind: str, subject: str, **detail: Any) -> Event:
        """Append an event, drop the oldest beyond `EVENTS_KEPT`, and return it."""
        now = time.time()
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO events (time, kind, subject, detail) VALUES (?, ?, ?, ?)",
                (now, kind, subject, json.dumps(detail, default=str)),
            )
            number = int(cursor.lastrowid or 0)
            self._db.execute("DELETE FROM events WHERE id <= ?", (number - self.EVENTS_KEPT,))
        return Event(
            id=number,
            time=now,
            kind=kind,
            subject=subject,
            detail=json.loads(json.dumps(detail, default=str)),
        )

    def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """Return up to `limit` events with an id above `after`; with `after` 0, the newest ones."""
        if after:
            query = "SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?"
            rows = self._db.execute(query, (after, limit)).fetchall()
        else:
            query = "SELECT * FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) ORDER BY id"
            rows = self._db.execute(query, (limit,)).fetchall()
        return [
            Event(id=row[0], time=row[1], kind=row[2], subject=row[3], detail=json.loads(row[4]))
            for row in rows
        ]

    def add_traffic(self, when: float, samples: Iterable[TrafficSample]) -> None:
        """Append the samples of one interval and drop those past `TRAFFIC_KEPT_SECONDS`."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO traffic VALUES (?, ?, ?, ?, ?, ?)",
                [(when, str(s.vip), s.source, str(s.dip), s.bps, s.pps) for s in samples],
            )
            self._db.execute("DELETE FROM traffic WHERE time < ?", (when - self.TRAFFIC_KEPT_SECONDS,))

    def traffic(self, since: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the intervals that ended after `since` (Unix seconds).

        An entry that is absent from an interval counts as zero there.
        """
        intervals = self._db.execute(
            "SELECT COUNT(DISTINCT time) FROM traffic WHERE time > ?", (since,)
        ).fetchone()[0]
        rows = self._db.execute(
            "SELECT vip, source, dip, SUM(bps), SUM(pps) FROM traffic WHERE time > ?"
            " GROUP BY vip, source, dip",
            (since,),
        ).fetchall()
        return [
            TrafficSample(
                vip=IPv4Address(vip),
                source=source,
                dip=IPv4Address(dip),
                bps=bps / intervals,
                pps=pps / intervals,
            )
            for vip, source, dip, bps, pps in rows
        ]
