"""What the agent's client asks of a switch for a plan, and what is left where a part of it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest
from finsy.proto import p4r

from duet_p4.hmux import pipeline
from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.rows import VIP_ROWS, HostRow, Row
from duet_p4.hmux.tables import VipTables
from duet_p4.model import Dip, Group, MuxVip
from duet_p4.switch_agent import p4session
from duet_p4.switch_agent.p4client import Switch, WriteError
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.transport import create_server
from tests.unit.p4runtime.memory import MemoryDevice

VIP = IPv4Address("10.0.0.1")
ROLLBACK, CONTINUE = p4r.WriteRequest.ROLLBACK_ON_ERROR, p4r.WriteRequest.CONTINUE_ON_ERROR
Sent = list[tuple[int, int]]
"""Atomicity and number of updates of each Write."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a busy machine takes is not what is asked here."""
    monkeypatch.setattr(p4session, "_CONNECT_TIMEOUT_S", 120.0)
    monkeypatch.setattr(p4session, "_RPC_TIMEOUT_S", 120.0)


@asynccontextmanager
async def serving(*, takes_back: bool) -> AsyncIterator[tuple[Switch, Sent]]:
    """Yield a session with a switch that runs hmux.p4 in memory, and what is written to it from now on."""
    device, sent = MemoryDevice(), Sent()
    service = P4RuntimeService(device, 0)
    write = service.write

    async def noted(request: p4r.WriteRequest) -> p4r.WriteResponse:
        sent.append((request.atomicity, len(request.updates)))
        return await write(request)

    service.write = noted  # type: ignore[method-assign]
    server = create_server(service)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    switch = Switch(f"127.0.0.1:{port}", 0, takes_back=takes_back)
    try:
        async with switch.session():
            await switch.ensure_pipeline()
            yield switch, sent
    finally:
        await server.stop(None)
        device.close()


def vip(dips: int, first: int = 0) -> MuxVip:
    members = tuple(Dip(address=IPv4Address("100.0.0.1") + n) for n in range(first, first + dips))
    return MuxVip(address=VIP, group=Group.of(members))


def tables() -> VipTables:
    return VipTables(pipeline.sizes_of(VIP_ROWS))


def rows_of(*plans: Iterable[Update[Any]]) -> set[Row]:
    return {update.row for plan in plans for update in plan if update.op is not Op.DELETE}


async def held(switch: Switch) -> set[Row]:
    return set((await switch.read_rows())[0])


def run(check: Callable[[Switch, Sent], Awaitable[None]], *, takes_back: bool = True) -> None:
    async def checked() -> None:
        async with serving(takes_back=takes_back) as (switch, sent):
            await check(switch, sent)

    asyncio.run(checked())


@pytest.mark.parametrize(
    ("takes_back", "wanted"), [(True, [(ROLLBACK, 19)]), (False, [(CONTINUE, 18), (CONTINUE, 1)])]
)
def test_a_vip_is_one_write_to_a_switch_that_takes_back_and_two_to_others(
    takes_back: bool, wanted: Sent
) -> None:
    async def check(switch: Switch, sent: Sent) -> None:
        plan = tables().put_vip(vip(2))
        timings = await switch.write_whole(plan)
        assert sent == wanted
        assert await held(switch) == rows_of(plan)
        assert switch.writes == len(plan)
        assert list(timings) == (["add_dips+add_vip"] if takes_back else ["add_dips", "add_vip"])
        assert min(timings.values()) > 0

    run(check, takes_back=takes_back)


def test_what_is_taken_away_is_written_once_nothing_leads_there() -> None:
    async def check(switch: Switch, sent: Sent) -> None:
        known = tables()
        first = known.put_vip(vip(2))
        await switch.write_whole(first)
        known.apply(first)
        sent.clear()
        await switch.write_whole(second := known.put_vip(vip(3, first=1)))
        known.apply(second)
        # New tunnels and slots; the VIP led there; then the old slots, then the old tunnel.
        assert sent == [(CONTINUE, 2 + 24), (CONTINUE, 1), (CONTINUE, 16), (CONTINUE, 1)]
        assert await held(switch) == set(known.rows())
        sent.clear()
        await switch.write_whole(known.delete(VIP))
        assert {atomicity for atomicity, _ in sent} == {CONTINUE}
        assert await held(switch) == set()

    run(check)


def test_what_a_switch_refuses_of_a_whole_write_is_named_and_nothing_stays() -> None:
    async def check(switch: Switch, sent: Sent) -> None:
        # Somebody else's row is in the way of the last of many updates.
        await switch.write_plan(Plan.of(("other", [Update(Op.INSERT, HostRow(VIP, 9, 9))])))
        before, writes = await held(switch), switch.writes
        plan = tables().put_vip(vip(24))
        assert len(plan) == 24 + 24 * 8 + 1
        with pytest.raises(
            WriteError, match=r"INSERT of HostRow\(.*: ALREADY_EXISTS .*this entry"
        ) as refused:
            await switch.write_whole(plan)
        assert sent[-1] == (ROLLBACK, len(plan))
        assert refused.value.taken == []
        assert await held(switch) == before
        assert switch.writes == writes

    run(check)


def test_a_plan_that_is_too_much_for_one_write_is_written_step_by_step() -> None:
    async def check(switch: Switch, sent: Sent) -> None:
        plan = tables().put_vip(vip(100))
        await switch.write_whole(plan)
        assert {atomicity for atomicity, _ in sent} == {CONTINUE}
        assert max(number for _, number in sent) <= 250
        assert await held(switch) == rows_of(plan)

    run(check)
