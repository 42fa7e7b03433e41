"""What the switch agent's service does with a switch that refuses, dies, or comes back."""

import asyncio
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from duet_p4.api.mux import Changes, PortStatus, Put, SessionStatus, Stated
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import ConflictError, UnavailableError, UnknownError
from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.rows import HostRow, Key, VipRow
from duet_p4.hmux.tables import VipTables
from duet_p4.journal import Journal, JournalError
from duet_p4.model import Dip, Group, MuxVip
from duet_p4.switch_agent.p4client import WriteError
from duet_p4.switch_agent.p4session import SwitchError
from duet_p4.switch_agent.service import HmuxService
from duet_p4.term import Terms

SIZES = {"host": 8, "acl": 8, "ecmp": 128, "tunneling": 16, "pinned": 8}
VIP = IPv4Address("10.0.0.1")


class FakeSwitch:
    """A dict of rows, and a log shared with the announcer. Refuses the update number `refuse_at`."""

    def __init__(self, log: list[str]) -> None:
        self.rows: dict[Key, VipRow] = {}
        self.writes = 0
        self.refuse_at: int | None = None
        self.gone = False
        self.arrived = 0
        self.asked: list[float] = []
        self._log = log
        self.arrivals: list[int] = []

    async def packets(self, addresses: Sequence[IPv4Address]) -> int:
        """Count the arrivals that were stated, one more of them each time that is asked."""
        self.arrived += self.arrivals.pop(0) if self.arrivals else 0
        self.asked.append(time.perf_counter())
        return self.arrived

    async def write_plan(self, plan: Plan[VipRow]) -> dict[str, float]:
        if self.gone:
            raise SwitchError("gone")
        taken: list[Update[VipRow]] = []
        for step in plan.steps:
            for update in step.updates:
                if self.writes == self.refuse_at:
                    self.refuse_at = None
                    raise WriteError(f"the switch refuses {update.row}", taken)
                self.writes += 1
                if update.op is Op.DELETE:
                    del self.rows[update.row.key]
                else:
                    self.rows[update.row.key] = update.row
                taken.append(update)
            self._log.append(step.label)
        return {step.label: 1.0 for step in plan.steps}

    write_whole = write_plan


class FakeAnnouncer:
    def __init__(self, log: list[str]) -> None:
        self._announced: set[IPv4Address] = set()
        self._log = log

    def announced(self) -> frozenset[IPv4Address]:
        return frozenset(self._announced)

    def add(self, address: IPv4Address) -> None:
        self._announced.add(address)
        self._log.append("announce")

    def remove(self, address: IPv4Address) -> None:
        self._announced.discard(address)
        self._log.append("withdraw")


class Surroundings:
    suspected = 0

    def ports(self) -> list[PortStatus]:
        return []

    async def sessions(self) -> list[SessionStatus]:
        return []

    def underlay(self) -> dict[str, tuple[int, int]]:
        return {}

    def suspect(self, why: str) -> None:
        self.suspected += 1

    def host_ports(self) -> list[HostPort]:
        return []

    def trouble(self) -> str:
        return ""


class Bench:
    """A service on fakes; the journal is real."""

    def __init__(
        self, state: Path, quiet_s: float = 0.0, patience_s: float = 60.0, least_s: float = 0.0
    ) -> None:
        self.log: list[str] = []
        self.switch = FakeSwitch(self.log)
        self.announcer = FakeAnnouncer(self.log)
        self.surroundings = Surroundings()
        announcer: Any = self.announcer
        self.service = HmuxService(
            "tor-1", "fake", state, announcer, self.surroundings, Terms(), SIZES, quiet_s, patience_s, least_s
        )

    async def attach(self, rows: Sequence[VipRow] = (), *, masked: bool = False) -> int:
        switch: Any = self.switch
        self.switch.rows = {row.key: row for row in rows}
        return await self.service.attach(switch, VipTables(SIZES, rows, masked=masked))


def vip(*last: int, address: IPv4Address = VIP) -> MuxVip:
    return MuxVip(
        address=address, group=Group.of(tuple(Dip(address=IPv4Address(f"100.0.0.{n}")) for n in last))
    )


def test_a_withdrawn_vip_is_served_until_no_packet_comes_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, quiet_s=0.05)
        await bench.attach()
        await bench.service.put(vip(1, 2), announce=True)
        bench.switch.arrivals = [5, 3, 1, 0, 7]
        change = await bench.service.delete(VIP)
        assert bench.switch.arrivals == [], "it went on while packets came"
        assert bench.switch.asked[-1] - bench.switch.asked[4] >= 0.04, "it waited after the last packet"
        assert set(change.timings_ms) == {"withdraw", "drain", "delete_vip", "delete_dips"}
        assert bench.switch.rows == {}

    asyncio.run(run())


def test_a_quiet_vip_is_served_until_bgp_has_told_everybody(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, quiet_s=0.001, least_s=0.08)
        await bench.attach()
        await bench.service.put(vip(1, 2), announce=True)
        change = await bench.service.delete(VIP)
        assert change.timings_ms["drain"] >= 80

    asyncio.run(run())


def test_packets_that_do_not_end_hold_a_deletion_up_only_for_so_long(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, quiet_s=60.0, patience_s=0.0)
        await bench.attach()
        await bench.service.put(vip(1, 2), announce=True)
        bench.switch.arrivals = [1] * 100
        await bench.service.delete(VIP)
        assert len(bench.switch.arrivals) > 90
        assert bench.switch.rows == {}

    asyncio.run(run())


def test_what_cannot_be_restored_is_said_not_to_be_announced(tmp_path: Path) -> None:
    async def run() -> None:
        before = Bench(tmp_path)
        await before.attach()
        await before.service.put(vip(1, 2), announce=True)
        after = Bench(tmp_path)
        after.switch.refuse_at = 0
        await after.attach()
        (state,) = after.service.vips()
        assert not state.announced
        assert after.announcer.announced() == frozenset()
        await after.service.put(vip(1, 2), announce=True)
        (state,) = after.service.vips()
        assert state.announced

    asyncio.run(run())


def test_tables_come_before_the_announcement_and_go_after_the_withdrawal(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        await bench.service.put(vip(1, 2), announce=True)
        await bench.service.delete(VIP)
        assert bench.log == [
            *("add_dips", "add_vip", "announce"),
            *("withdraw", "delete_vip", "delete_dips", "delete_dips"),
        ]

    asyncio.run(run())


@pytest.mark.parametrize("refuse_at", range(20))
def test_a_change_that_the_switch_refuses_half_way_is_taken_back(tmp_path: Path, refuse_at: int) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        await bench.service.put(vip(1, 2), announce=True)
        before, held = dict(bench.switch.rows), bench.service.vips()
        bench.switch.refuse_at = bench.switch.writes + refuse_at
        with pytest.raises(ConflictError, match="the switch refuses"):
            await bench.service.put(vip(1, 2, 3), announce=True)
        assert bench.switch.rows == before
        assert bench.service.vips() == held
        assert not bench.surroundings.suspected
        change = await bench.service.put(vip(1, 2, 3), announce=True)
        assert change.updates > 20

    asyncio.run(run())


def test_a_switch_that_masks_hashes_refuses_a_group_that_is_no_power_of_two_and_nothing_else(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach(masked=True)
        await bench.service.put(vip(1, 2), announce=True)
        before = dict(bench.switch.rows)
        with pytest.raises(ConflictError, match=r"VIP 10\.0\.0\.2 has a group of 24 slots") as refused:
            await bench.service.put(vip(1, 2, 3, address=VIP + 1), announce=True)
        assert refused.value.problem.kind == "slot-count"
        assert bench.switch.rows == before
        await bench.service.put(vip(1, 2, 3, 4, address=VIP + 1), announce=True)

        # On a switch of another kind it was held; here it cannot be restored, and is not announced.
        elsewhere = Bench(tmp_path / "other")
        await elsewhere.attach()
        await elsewhere.service.put(vip(1, 2, 3), announce=True)
        moved = Bench(tmp_path / "other")
        await moved.attach(masked=True)
        assert moved.announcer.announced() == set()
        assert "24 slots" in moved.service.problem

    asyncio.run(run())


def test_a_restarted_agent_writes_only_what_differs(tmp_path: Path) -> None:
    async def run() -> None:
        first = Bench(tmp_path)
        await first.attach()
        await first.service.put(vip(1, 2), announce=True)
        await first.service.put(vip(3, address=VIP + 1), announce=False)
        rows = list(first.switch.rows.values())

        same = Bench(tmp_path)
        assert await same.attach(rows) == 0
        assert same.announcer.announced() == {VIP}

        lacking = Bench(tmp_path)
        lacking.announcer.add(VIP + 9)
        assert await lacking.attach([row for row in rows if not isinstance(row, HostRow)]) > 0
        assert set(lacking.switch.rows) == {row.key for row in rows}
        assert lacking.announcer.announced() == {VIP}

    asyncio.run(run())


def test_without_a_switch_nothing_is_announced_and_changes_are_refused(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        await bench.service.put(vip(1), announce=True)
        await bench.service.detach()
        assert not bench.announcer.announced()
        for attempt in (
            bench.service.put(vip(1, 2), announce=True),
            bench.service.delete(VIP),
            bench.service.counters(),
        ):
            with pytest.raises(UnavailableError, match="does not answer"):
                await attempt
        assert [state.vip for state in bench.service.vips()] == [vip(1)]
        await bench.attach()
        assert bench.announcer.announced() == {VIP}
        bench.switch.gone = True
        with pytest.raises(UnavailableError, match="gone"):
            await bench.service.put(vip(1, 2), announce=True)
        assert bench.surroundings.suspected == 1

    asyncio.run(run())


def test_what_is_not_held_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        service = bench.service
        for attempt in (
            service.delete(VIP),
            service.announce(VIP),
            service.withdraw(VIP),
        ):
            with pytest.raises(UnknownError, match=r"10\.0\.0\.1 is not on tor-1"):
                await attempt

    asyncio.run(run())


def many(count: int) -> list[MuxVip]:
    return [vip(1, address=VIP + n) for n in range(count)]


def put(entries: Sequence[MuxVip], **more: Any) -> Changes:
    return Changes(put=tuple(Put(entry=Stated.of(entry)) for entry in entries), **more)


def test_entries_of_one_request_are_written_together_and_all_or_nothing_each(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        changed = await bench.service.change(put(many(10)))
        # The host table has 8 entries.
        assert [str(result.address) for result in changed.problems()] == ["10.0.0.9", "10.0.0.10"]
        assert {result.problem.kind for result in changed.problems() if result.problem} == {"table-full"}
        assert bench.log == ["add_dips", "add_vip", *["announce"] * 8], "one write for all"
        assert bench.announcer.announced() == {VIP + n for n in range(8)}
        assert sum(isinstance(row, HostRow) for row in bench.switch.rows.values()) == 8
        again = Bench(tmp_path)
        assert again.service.digest() == bench.service.digest() == changed.digest

        bench.log.clear()
        changed = await bench.service.change(put(many(10)[8:], delete=tuple(VIP + n for n in range(4))))
        assert changed.problems() == [] and len(bench.service.vips()) == 6
        assert bench.log[:4] == ["withdraw"] * 4

    asyncio.run(run())


@pytest.mark.parametrize("refuse_at", range(0, 30, 3))
def test_one_entry_that_the_switch_refuses_stops_no_other_of_its_request(
    tmp_path: Path, refuse_at: int
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        bench.switch.refuse_at = refuse_at
        changed = await bench.service.change(put(many(4)))
        # The one refusal is over when each is tried by itself.
        assert changed.problems() == []
        held = {row.address for row in bench.switch.rows.values() if isinstance(row, HostRow)}
        assert held == bench.announcer.announced() == {VIP + n for n in range(4)}
        same = Bench(tmp_path)
        assert await same.attach(list(bench.switch.rows.values())) == 0

    asyncio.run(run())


def test_room_that_one_entry_of_a_request_frees_is_there_for_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        wide = tuple(Dip(address=IPv4Address(f"100.0.0.{n}")) for n in range(1, 15))
        await bench.service.put(MuxVip(address=VIP, group=Group.of(wide)), announce=True)
        # 112 of 128 slots are taken: the second fits only once the first has shrunk.
        second = MuxVip(address=VIP + 1, group=Group.of(wide[:9]))
        changed = await bench.service.change(put([vip(1), second]))
        assert changed.problems() == []
        assert len(bench.service.vips()) == 2

    asyncio.run(run())


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.attach()
        await bench.service.put(vip(1), announce=True)
        rows, digest = dict(bench.switch.rows), bench.service.digest()

        def full(*_: object) -> None:
            raise JournalError("cannot write: no space left on device")

        monkeypatch.setattr(Journal, "write", full)
        for attempt in (
            bench.service.put(vip(1, 2), announce=True),
            bench.service.delete(VIP),
            bench.service.withdraw(VIP),
        ):
            with pytest.raises(UnavailableError, match="no space left"):
                await attempt
        assert (bench.switch.rows, bench.service.digest()) == (rows, digest)
        assert bench.announcer.announced() == {VIP}
        monkeypatch.undo()
        assert (await bench.service.put(vip(1, 2), announce=True)).updates > 0

    asyncio.run(run())


def test_a_deletion_that_is_cut_off_is_not_announced_again(tmp_path: Path) -> None:
    """The journal says first that it is not announced any more: another session must not announce it."""

    async def run() -> None:
        bench = Bench(tmp_path, quiet_s=60.0)
        await bench.attach()
        await bench.service.put(vip(1), announce=True)
        deleting = asyncio.create_task(bench.service.delete(VIP))
        while not bench.switch.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await bench.attach(list(bench.switch.rows.values()))
        assert bench.announcer.announced() == frozenset()
        deleting.cancel()
        restarted = Bench(tmp_path)
        await restarted.attach(list(bench.switch.rows.values()))
        assert restarted.announcer.announced() == frozenset()

    asyncio.run(run())


def test_a_switch_that_lost_its_tables_announces_once_that_is_confirmed(tmp_path: Path) -> None:
    async def run() -> None:
        first = Bench(tmp_path)
        await first.attach()
        await first.service.put(vip(1), announce=True)
        await first.service.put(vip(2, address=VIP + 1), announce=True)

        switch: Any = first.switch
        switch.rows = {}
        await first.service.detach()
        await first.service.attach(switch, VipTables(SIZES), cold=True)
        assert first.announcer.announced() == frozenset()
        assert len(first.switch.rows) > 0, "it serves what still comes"
        await first.service.put(vip(1), announce=True)
        assert first.announcer.announced() == {VIP}, "what is put now is announced now"
        first.service.on_confirmation(lambda: None)
        await first.service.confirm(first.service.digest().digest)
        await first.service.admit()
        assert first.announcer.announced() == {VIP, VIP + 1}

    asyncio.run(run())


def test_a_clean_up_that_is_refused_is_said_and_tried_again(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        stray = HostRow(VIP + 99, 0, 8)
        bench.switch.refuse_at = 0
        await bench.attach([stray])
        assert "what nobody asked for cannot be removed" in bench.service.problem
        assert (await bench.service.put(vip(1), announce=True)).announced, "nothing else suffers"
        assert await bench.service.clean_up()
        assert bench.service.problem == ""
        assert stray.key not in bench.switch.rows

    asyncio.run(run())
