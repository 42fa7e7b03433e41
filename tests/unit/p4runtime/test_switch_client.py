"""The agent's side of a Write, against this project's own P4Runtime server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.rows import SlotRow
from duet_p4.switch_agent.p4client import Switch, WriteError
from tests.unit.p4runtime.conftest import ServerThread
from tests.unit.p4runtime.memory import MemoryDevice

MANY = 600
"""Updates that take several requests, each of them of several lengths."""


@pytest.fixture
def address(device: MemoryDevice) -> Iterator[str]:
    server = ServerThread(device)
    yield server.address
    server.stop()


def test_what_a_switch_refuses_of_many_updates_is_named_and_the_others_are_taken(address: str) -> None:
    inserts = [Update(Op.INSERT, SlotRow(slot, slot % 512)) for slot in range(MANY)]
    again = inserts[100]

    async def write() -> tuple[WriteError, list[object]]:
        switch = Switch(address, 1)
        async with switch.session():
            await switch.ensure_pipeline()
            await switch.write_plan(Plan.of(("first", [again])))
            with pytest.raises(WriteError) as refused:
                await switch.write_plan(Plan.of(("all", inserts)))
            rows, foreign = await switch.read_rows()
            assert foreign == []
            return refused.value, [row for row in rows if isinstance(row, SlotRow)]

    error, held = asyncio.run(write())
    assert f"the switch refuses INSERT of {again.row}: ALREADY_EXISTS" in str(error)
    assert list(error.taken) == [update for update in inserts[:250] if update is not again]
    assert sorted(row.slot for row in held) == list(range(250))
    assert all(row.tunnel == row.slot % 512 for row in held)
