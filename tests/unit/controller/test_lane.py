"""A lane whose device was cut off: nobody waits for it, and it is looked at anew when it is back."""

import asyncio
from ipaddress import IPv4Address

import pytest

from controller.updater.devices import Came, Operation
from controller.updater.lane import AWAY, Lane, Priority
from controller.updater.plan import Action, DeviceKind, DeviceState

VIP = IPv4Address("10.0.0.1")


class Hung:
    """A device that never answers."""

    kind = DeviceKind.SERVER

    async def change(self, operations: list[Operation]) -> list[Came]:
        return await asyncio.Future()


def lane_of(device: Hung) -> Lane:
    return Lane(
        "server1",
        device,  # type: ignore[arg-type]
        asyncio.Semaphore(1),
        lambda: DeviceState(DeviceKind.SERVER),
        lambda addresses: None,
        {},
    )


def test_what_waits_for_a_device_that_is_cut_off_is_given_up_at_once() -> None:
    async def work() -> None:
        lane = lane_of(Hung())
        delete = Operation(Action.DELETE, VIP, None)
        sent = lane.submit(delete, Priority.HEALTH)
        await asyncio.sleep(0)  # The worker sends it.
        queued = lane.submit(delete, Priority.HEALTH)
        assert not sent.done()
        lane.set_cut_off(True)
        for answer in (sent, queued, lane.submit(delete, Priority.HEALTH)):
            came = await asyncio.wait_for(answer, 1)
            assert came.problem is not None
            assert came.problem.kind == AWAY
            assert "cut off" in came.problem.detail
        assert not lane.open
        lane.known = True
        lane.set_cut_off(False)
        assert lane.open
        assert not lane.known, "what it holds now is to be found out"

    asyncio.run(work())


@pytest.mark.parametrize("reachable", [True, False])
def test_a_device_that_is_cut_off_is_not_asked_whether_or_not_its_agent_answers(reachable: bool) -> None:
    async def work() -> None:
        lane = lane_of(Hung())
        lane.set_cut_off(True)
        lane.set_reachable(reachable)
        assert not lane.open
        assert not lane.due()
        lane.set_cut_off(False)
        assert lane.open is reachable

    asyncio.run(work())
