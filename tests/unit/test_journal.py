from ipaddress import IPv4Address
from pathlib import Path

import pytest

from duet_p4.journal import Journal, JournalError
from duet_p4.model import Dip, Group, MuxTip


def tip(last: int, weight: int = 1) -> MuxTip:
    dips = (Dip(address="100.1.1.1"), Dip(address="100.1.1.2", weight=weight))
    return MuxTip(address=f"20.0.0.{last}", group=Group.of(dips))


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "tips", MuxTip)
    for last in (10, 9, 2):
        journal.put(tip(last).address, tip(last))
    journal.put(tip(9).address, tip(9, weight=3))
    journal.delete(tip(2).address)
    journal.delete(tip(2).address)
    assert list(Journal(tmp_path / "tips", MuxTip).load()) == [tip(9, weight=3), tip(10)]


def test_a_failed_change_is_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MuxTip)
    journal.put(tip(1).address, tip(1))
    journal.put(tip(1).address, tip(1, weight=2))
    journal.restore(tip(1).address, tip(1))
    journal.put(tip(2).address, tip(2))
    journal.restore(tip(2).address, None)
    assert list(journal.load()) == [tip(1)]


def test_an_entry_that_was_being_written_when_the_process_died_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MuxTip)
    journal.put(tip(1).address, tip(1))
    (tmp_path / "20.0.0.1.partial").write_text('{"address": "20.')
    assert list(journal.load()) == [tip(1)]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MuxTip)
    (tmp_path / f"{IPv4Address('20.0.0.7')}.json").write_text('{"address": "20.0.0.7"}')
    with pytest.raises(JournalError, match=r"20\.0\.0\.7\.json holds no valid MuxTip"):
        list(journal.load())
