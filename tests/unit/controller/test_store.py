import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.records import Event, PlacedTip, Resting, VipRecord
from controller.store import Batch, LockedError, SqliteStore, StaleError, StoreError, codec
from controller.store.sqlite import SCHEMA_VERSION
from duet_p4.model import Checked, Dip, Group, MuxTip, MuxVip, Vip

VIP = IPv4Address("10.0.0.1")
DOWN = {(VIP, Checked(VIP)), (VIP, Checked(VIP, "tcp/80"))}


def record(number: int = 0, count: int = 2, **more: object) -> VipRecord:
    dips = tuple(Dip(address=IPv4Address("100.0.0.1") + i) for i in range(count))
    spec = Vip(address=VIP + number, dips=dips)
    return VipRecord(spec=spec, layout=MuxVip.of(spec)).model_copy(update=more)


def run(path: Path, work: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = SqliteStore(path / "duet.db")
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


@settings(deadline=None)
@given(st.integers(1, 300), st.booleans())
def test_a_record_survives_being_written_down(count: int, with_tip: bool) -> None:
    written = record(count=count, switch="s1", leaving=("s2",), held=True)
    if with_tip:
        tip = MuxTip(address=IPv4Address("20.0.0.1"), group=Group.of(written.spec.dips))
        written = written.model_copy(update={"tips": (PlacedTip(tip=tip, returning="s3"),)})
    text = codec.encode(written)
    assert codec.decode(text) == written
    assert len(text) < 400 + 60 * count * (2 if with_tip else 1) + count * 60


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    plain = json.loads(codec.encode(record()))
    plain["colour"] = "red"
    plain["spec"]["dips"][0]["mood"] = "fine"
    assert codec.decode(json.dumps(plain)) == record()


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    resting = Resting(address=VIP + 9, switches=("s1",), since=1.0)

    async def write(store: SqliteStore) -> None:
        await store.commit(Batch(put=[(record(), 0), (record(1), 0)], down=dict.fromkeys(DOWN, True)))
        await store.commit(Batch(put=[(record(switch="s1"), 1)], resting={VIP + 9: resting}))
        await store.commit(Batch(delete=[(VIP + 1, 1)]))

    async def read(store: SqliteStore) -> None:
        found = await store.load()
        assert found.vips == {VIP: (record(switch="s1"), 2)}
        assert (found.down, found.resting) == (DOWN, {VIP + 9: resting})

    run(tmp_path, write)
    run(tmp_path, read)


def test_a_change_of_what_somebody_else_changed_fails_and_stops_no_other(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await store.commit(Batch(put=[(record(), 0)]))
        batches = [
            Batch(put=[(record(switch="a"), 1)]),
            Batch(put=[(record(switch="b"), 1), (record(5), 0)]),
            Batch(put=[(record(6), 0)]),
            Batch(delete=[(VIP, 7)]),
            Batch(put=[(record(), 0)]),
        ]
        came = await asyncio.gather(*(store.commit(batch) for batch in batches), return_exceptions=True)
        assert [type(error) for error in came] == [
            type(None),
            StaleError,
            type(None),
            StaleError,
            StaleError,
        ]
        assert set((await store.load()).vips) == {VIP, VIP + 6}
        assert (await store.load()).vips[VIP][0].switch == "a"

    run(tmp_path, work)


def test_a_commit_that_fails_changes_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        # Checked at COMMIT only, as a full disk may be noticed there only.
        store._db.executescript(
            "PRAGMA foreign_keys = ON; CREATE TABLE child (id REFERENCES terms (term) DEFERRABLE INITIALLY "
            "DEFERRED); CREATE UNIQUE INDEX one ON terms (term);"
            "CREATE TRIGGER broken AFTER INSERT ON events WHEN NEW.kind = 'break' "
            "BEGIN INSERT INTO child VALUES (99); END;"
        )
        bad = Event(id=1, time=0, kind="break", subject="", detail={})
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            await store.commit(Batch(put=[(record(), 0)], events=[bad]))
        assert (await store.load()).vips == {}
        await store.commit(Batch(put=[(record(), 0)]))
        assert set((await store.load()).vips) == {VIP}

    run(tmp_path, work)


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    async def work(_: SqliteStore) -> None:
        script = f"from controller.store import SqliteStore; SqliteStore({str(tmp_path / 'duet.db')!r})"
        told = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert told.returncode == 1
        assert f"{tmp_path / 'duet.db'} belongs to another controller" in told.stderr

    run(tmp_path, work)
    with pytest.raises(LockedError, match="another controller that runs"):
        try:
            first = SqliteStore(tmp_path / "duet.db")
            SqliteStore(tmp_path / "duet.db")
        finally:
            asyncio.run(first.close())
    run(tmp_path, lambda store: store.load())  # type: ignore[arg-type, return-value]


def test_terms_only_grow(tmp_path: Path) -> None:
    terms: list[int] = []

    async def work(store: SqliteStore) -> None:
        terms.append(await store.next_term())

    for _ in range(3):
        run(tmp_path, work)
    assert terms == [1, 2, 3]


def test_events_are_kept_in_order_and_the_oldest_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.store.sqlite.EVENTS_KEPT", 10)
    events = [Event(id=n, time=n, kind="k", subject="s", detail={"n": n}) for n in range(1, 26)]

    async def work(store: SqliteStore) -> None:
        await store.commit(Batch(events=events))
        assert [event.id for event in await store.events(0, 100)] == list(range(16, 26))
        assert await store.events(20, 2) == events[20:22]
        assert await store.events(None, 3) == events[-3:]
        assert (await store.load()).last_event == 25

    run(tmp_path, work)


def test_a_file_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "duet.db")
    old.executescript(
        "CREATE TABLE vips (address TEXT PRIMARY KEY, record TEXT NOT NULL);"
        "CREATE TABLE down_dips (vip TEXT NOT NULL, dip TEXT NOT NULL, PRIMARY KEY (vip, dip));"
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL,"
        " subject TEXT NOT NULL, detail TEXT NOT NULL);"
        "CREATE TABLE traffic (time REAL NOT NULL, vip TEXT NOT NULL, source TEXT NOT NULL,"
        " dip TEXT NOT NULL, bps REAL NOT NULL, pps REAL NOT NULL);"
        "INSERT INTO down_dips VALUES ('', '100.0.0.1'), ('10.0.0.1', '100.0.0.2');"
        "INSERT INTO events (time, kind, subject, detail) VALUES (1.5, 'vip-added', '10.0.0.1', '{}');"
    )
    old.execute("INSERT INTO vips VALUES (?, ?)", (str(VIP), record(switch="s1").model_dump_json()))
    old.commit()
    old.close()

    async def read(store: SqliteStore) -> None:
        found = await store.load()
        assert found.vips == {VIP: (record(switch="s1"), 1)}
        assert found.down == {(VIP, Checked(IPv4Address("100.0.0.2")))}
        assert [event.kind for event in await store.events(0, 10)] == ["vip-added"]

    run(tmp_path, read)
    run(tmp_path, read)


def test_a_file_of_a_later_version_is_refused_by_its_number(tmp_path: Path) -> None:
    later = sqlite3.connect(tmp_path / "duet.db")
    later.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    later.close()
    with pytest.raises(StoreError, match=f"later version .schema {SCHEMA_VERSION + 1}, this one knows"):
        SqliteStore(tmp_path / "duet.db")
    (tmp_path / "duet.db").write_bytes(b"this is no database at all, only a text of some length")
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore(tmp_path / "duet.db")


def test_a_follower_sees_every_batch_in_order(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        seen: list[Batch] = []

        async def follow() -> None:
            async for batch in store.watch():
                seen.append(batch)
                if len(seen) == 3:
                    return

        follower = asyncio.create_task(follow())
        await asyncio.sleep(0)
        batches = [Batch(put=[(record(number), 0)]) for number in range(3)]
        for batch in batches:
            await store.commit(batch)
        await asyncio.wait_for(follower, 5)
        assert seen == batches

    run(tmp_path, work)
