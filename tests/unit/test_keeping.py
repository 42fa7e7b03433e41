"""What an SMux's service holds agrees with its data path and its journal, whatever fails."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from duet_p4.allocation import TableFullError
from duet_p4.api.mux import Changes, PortStatus, Put, SessionStatus, Stated, VipState, WantedState
from duet_p4.api.problems import ConflictError, UnavailableError, UnknownError
from duet_p4.identity import Identity, Role
from duet_p4.journal import Journal, JournalError
from duet_p4.model import Dip, Group, MuxTip, MuxVip
from duet_p4.rest.access import ACTOR
from duet_p4.smux.datapath import Written
from duet_p4.smux.service import SmuxService
from duet_p4.term import Terms

VIPS = IPv4Network("10.0.0.0/16")


class FakeDatapath:
    """Has room for `room` entries; `broken` addresses are refused by the kernel half-way."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.held: dict[IPv4Address, MuxVip | MuxTip] = {}
        self.broken: set[IPv4Address] = set()
        self.order: list[IPv4Address] = []

    def put_vip(self, entry: MuxVip | MuxTip) -> Written:
        if entry.address not in self.held and len(self.held) == self.room:
            raise TableFullError("services", self.room, 1, self.room)
        if entry.address in self.broken:
            self.broken.discard(entry.address)
            self.held.pop(entry.address, None)
            raise OSError(7, "Argument list too long (map services)")
        self.held[entry.address] = entry
        self.order.append(entry.address)
        return Written(1, 0.0, 0.0)

    put_tip = put_vip

    def delete_vip(self, address: IPv4Address) -> Written:
        del self.held[address]
        return Written(1, 0.0, 0.0)

    delete_tip = delete_vip

    def table_use(self) -> dict[str, tuple[int, int]]:
        return {}


class Around:
    def ports(self) -> Sequence[PortStatus]:
        return ()

    async def sessions(self) -> Sequence[SessionStatus]:
        return ()

    def draining(self) -> bool:
        return False

    def trouble(self) -> str:
        return ""


def service(folder: Path, datapath: FakeDatapath) -> SmuxService:
    path: Any = datapath
    return SmuxService("smux1", "fake", path, [VIPS], folder, Around(), Terms())


def vip(last: int, *dips: int) -> MuxVip:
    group = Group.of(tuple(Dip(address=f"100.0.0.{n}") for n in dips or (1,)))
    return MuxVip(address=VIPS[last], group=group)


def agree(made: SmuxService, datapath: FakeDatapath, folder: Path) -> None:
    """Fail unless memory, data path and journal hold the same."""
    held = {state.vip.address: state.vip for state in made.vips()}
    assert held == datapath.held
    after = FakeDatapath()
    again = service(folder, after)
    assert after.held == held and again.digest() == made.digest()


def damage(folder: Path) -> None:
    for path in folder.glob("journal.db-*"):
        path.unlink()
    (folder / "journal.db").write_bytes(b"")


def test_entries_without_room_are_refused_one_by_one_and_leave_no_trace(tmp_path: Path) -> None:
    async def run() -> None:
        datapath = FakeDatapath(room=3)
        made = service(tmp_path, datapath)
        changed = await made.become(
            WantedState(vips=[VipState(vip=vip(n), announced=True) for n in range(1, 6)])
        )
        assert [result.problem.kind for result in changed.problems() if result.problem] == ["table-full"] * 2
        assert not made.synced, "what is wanted is not what is held"
        agree(made, datapath, tmp_path)

    asyncio.run(run())


def test_new_tips_are_there_before_their_vip_and_others_change_after_it(tmp_path: Path) -> None:
    """By then the VIP has pinned flows that the other slots of a TIP would lead elsewhere."""

    def tip(last: int, *dips: int) -> MuxTip:
        return MuxTip(address=VIPS[256 + last], group=vip(1, *dips).group)

    async def run() -> None:
        datapath = FakeDatapath()
        made = service(tmp_path, datapath)
        await made.put(tip(1), announce=True)
        for new, dip in ((2, 5), (3, 6)):
            datapath.order.clear()
            stated = [
                Stated(tip=tip(1, dip)),
                *(Stated(vip=vip(n, dip)) for n in (1, 2)),
                Stated(tip=tip(new)),
            ]
            await made.change(Changes(put=[Put(entry=entry) for entry in stated]))
            assert datapath.order == [VIPS[256 + new], VIPS[1], VIPS[2], VIPS[257]]

    asyncio.run(run())


def test_a_write_that_the_kernel_refuses_half_way_is_taken_back(tmp_path: Path) -> None:
    async def run() -> None:
        datapath = FakeDatapath()
        made = service(tmp_path, datapath)
        await made.put(vip(1, 1), announce=True)
        datapath.broken.add(VIPS[1])
        with pytest.raises(ConflictError, match="Argument list too long"):
            await made.put(vip(1, 1, 2), announce=True)
        assert datapath.held == {VIPS[1]: vip(1, 1)}
        agree(made, datapath, tmp_path)

    asyncio.run(run())


def test_a_disk_that_is_full_refuses_changes_before_the_data_path_hears_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        datapath = FakeDatapath()
        made = service(tmp_path, datapath)
        await made.put(vip(1), announce=True)

        def full(*_: object) -> None:
            raise JournalError("no space left on device")

        monkeypatch.setattr(Journal, "write", full)
        for attempt in (made.put(vip(2), announce=True), made.delete(VIPS[1])):
            with pytest.raises(UnavailableError, match="no space left"):
                await attempt
        monkeypatch.undo()
        agree(made, datapath, tmp_path)

    asyncio.run(run())


def test_a_journal_that_does_not_fit_any_more_or_is_damaged_is_said_and_stops_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        first = service(tmp_path, FakeDatapath())
        for last in (1, 2, 3):
            await first.put(vip(last), announce=True)
        datapath = FakeDatapath(room=2)
        smaller = service(tmp_path, datapath)
        assert len(datapath.held) == 2
        assert "10.0.0.3 of the journal is not served: services table is full" in smaller.problem

        agree(smaller, datapath, tmp_path)
        damage(tmp_path)
        damaged = service(tmp_path, FakeDatapath())
        assert "damaged" in damaged.problem and "journal.db.bad" in damaged.problem
        assert (await damaged.status()).health == damaged.problem
        await damaged.become(WantedState(vips=(VipState(vip=vip(1), announced=True),)))
        assert damaged.problem == "", "what it holds is confirmed"

    asyncio.run(run())


def test_who_put_an_entry_as_it_is_is_kept_across_a_restart_and_a_put_that_fails(tmp_path: Path) -> None:
    datapath = FakeDatapath()
    made = service(tmp_path, datapath)

    async def put_as(who: str, entry: MuxVip) -> None:
        ACTOR.set(Identity(Role.CONTROLLER, who))
        await made.put(entry, announce=True)

    asyncio.run(put_as("first", vip(1)))
    first = made.installed(VIPS[1])
    assert str(first.by).startswith("controller first") and first.at is not None
    asyncio.run(put_as("second", vip(1)))
    assert made.installed(VIPS[1]) == first, "the same again is no other"
    datapath.broken.add(VIPS[1])
    with pytest.raises(ConflictError):
        asyncio.run(put_as("third", vip(1, 2)))
    assert made.installed(VIPS[1]) == first
    asyncio.run(put_as("fourth", vip(1, 2)))
    assert str(made.installed(VIPS[1]).by).startswith("controller fourth")
    assert service(tmp_path, FakeDatapath()).installed(VIPS[1]) == made.installed(VIPS[1])
    asyncio.run(made.delete(VIPS[1]))
    with pytest.raises(UnknownError):
        made.installed(VIPS[1])
