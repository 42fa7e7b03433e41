import sqlite3
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4.api.installed import Installed
from duet_p4.journal import Held, Journal, JournalError
from duet_p4.model import Dip, Group, MuxTip, MuxVip

KINDS: dict[str, type[MuxVip] | type[MuxTip]] = {"vip": MuxVip, "tip": MuxTip}


def tip(last: int, weight: int = 1) -> Held[MuxVip | MuxTip]:
    dips = (Dip(address="100.1.1.1"), Dip(address="100.1.1.2", weight=weight))
    return Held(MuxTip(address=f"20.0.0.{last}", group=Group.of(dips)), announced=bool(last % 2))


def at(last: int) -> IPv4Address:
    return IPv4Address(f"20.0.0.{last}")


def journal(folder: Path) -> Journal[MuxVip | MuxTip]:
    return Journal(folder / "journal.db", KINDS)


def filled(folder: Path, count: int) -> None:
    made = journal(folder)
    made.write({at(last): tip(last) for last in range(1, count + 1)})
    made.close()


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = journal(tmp_path / "new")
    first.write({at(10): tip(10), at(9): tip(9), at(2): tip(2)})
    first.write({at(9): tip(9, weight=3), at(2): None, at(3): None})
    second = journal(tmp_path / "new")
    assert list(second.load().items()) == [(at(9), tip(9, weight=3)), (at(10), tip(10))]
    assert second.problems == []


def test_a_vip_and_a_tip_of_the_same_shape_are_told_apart(tmp_path: Path) -> None:
    group = Group.of((Dip(address="100.1.1.1"),))
    held = {
        IPv4Address("10.0.0.1"): Held(MuxVip(address="10.0.0.1", group=group), announced=False),
        at(1): Held(MuxTip(address="20.0.0.1", group=group), announced=True),
    }
    journal(tmp_path).write(held)
    assert journal(tmp_path).load() == held


@pytest.mark.parametrize("damage", [b"", b"no database at all", b"SQLite format 3\0" + bytes(200)])
def test_a_file_that_is_no_journal_any_more_is_set_aside_and_said(tmp_path: Path, damage: bytes) -> None:
    filled(tmp_path, 3)
    for name in ("journal.db-wal", "journal.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "journal.db").write_bytes(damage)
    again = journal(tmp_path)
    assert again.load() == {}
    (problem,) = again.problems
    assert f"{tmp_path}/journal.db is damaged" in problem and "journal.db.bad" in problem
    assert (tmp_path / "journal.db.bad").read_bytes() == damage
    again.write({at(1): tip(1)})
    third = journal(tmp_path)
    assert (third.load(), third.problems) == ({at(1): tip(1)}, [])


def test_an_entry_that_cannot_be_read_is_set_aside_and_the_others_are_used(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    database = sqlite3.connect(tmp_path / "journal.db")
    with database:
        changed = "UPDATE entries SET entry = replace(entry, '100.1.1.1', '100.1.9.1') WHERE address = ?"
        database.execute(changed, ("20.0.0.2",))
        database.execute("UPDATE entries SET entry = '{' WHERE address = '20.0.0.3'")
    database.close()
    again = journal(tmp_path)
    assert again.load() == {at(1): tip(1), at(4): tip(4)}
    assert len(again.problems) == 2
    assert "100.1.9.1" in (tmp_path / "20.0.0.2.bad").read_text()
    assert (tmp_path / "20.0.0.3.bad").exists()
    third = journal(tmp_path)
    assert (len(third.load()), third.problems) == (2, [])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40_000), st.binary(min_size=1, max_size=200))
def test_damage_anywhere_never_stops_an_agent_nor_invents_an_entry(
    tmp_path_factory: pytest.TempPathFactory, position: int, damage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    filled(folder, 60)
    path = folder / "journal.db"
    raw = bytearray(path.read_bytes())
    position %= len(raw)
    raw[position : position + len(damage)] = damage
    path.write_bytes(raw)
    again = journal(folder)
    found = again.load()
    assert all(held == tip(address.packed[3]) for address, held in found.items())
    assert len(found) == 60 or again.problems or raw == path.read_bytes()


def test_a_journal_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot keep a journal in"):
        journal(tmp_path / "file")


def test_who_had_an_entry_put_is_kept_with_it_and_goes_with_it(tmp_path: Path) -> None:
    first = journal(tmp_path)
    by = Installed(at=1.5, by="controller controller1 (term 2)")
    first.write({at(1): tip(1), at(2): tip(2)}, {at(1): by})
    assert journal(tmp_path).origins() == {at(1): by}
    first.write({at(1): None})
    assert journal(tmp_path).origins() == {}


def test_a_journal_that_does_not_say_who_is_read_as_before(tmp_path: Path) -> None:
    journal(tmp_path).write({at(1): tip(1)})
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("DROP TABLE origins")
    again = journal(tmp_path)
    assert list(again.load()) == [at(1)] and again.origins() == {} and not again.problems
