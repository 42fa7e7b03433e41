"""Changes that set out together."""

from __future__ import annotations

import asyncio

import pytest

from controller.updater import convoy
from controller.updater.convoy import Convoy


class Traveller:
    """Travels until told to arrive."""

    def __init__(self, convoy: Convoy) -> None:
        self.arrive = asyncio.Event()
        self.under_way = asyncio.Event()
        self.task = asyncio.create_task(self._travel(convoy))

    async def _travel(self, convoy: Convoy) -> None:
        async with convoy.joined():
            self.under_way.set()
            await self.arrive.wait()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convoy, "LONGEST_S", 300.0)


def test_who_comes_while_nobody_is_on_the_way_waits_for_nothing() -> None:
    async def main() -> None:
        together = Convoy()
        for _ in range(3):
            one = Traveller(together)
            await turns(1)
            assert one.under_way.is_set()
            one.arrive.set()
            await one.task

    asyncio.run(main())


def test_those_who_come_meanwhile_set_out_together_once_the_others_have_arrived() -> None:
    async def main() -> None:
        together = Convoy()
        first = Traveller(together)
        await turns()
        later = [Traveller(together) for _ in range(4)]
        await turns()
        assert not any(one.under_way.is_set() for one in later)
        first.arrive.set()
        again = Traveller(together)
        async with asyncio.timeout(60):
            await later[0].under_way.wait()
            await turns()
            assert all(one.under_way.is_set() for one in (*later, again))
            for one in (*later[1:], again):
                one.arrive.set()
            last = Traveller(together)
            await turns()
            assert not last.under_way.is_set()
            later[0].arrive.set()
            await last.under_way.wait()

    asyncio.run(main())


def test_who_does_not_arrive_keeps_others_waiting_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convoy, "LONGEST_S", 0.02)

    async def main() -> None:
        together = Convoy()
        stuck = Traveller(together)
        await turns()
        async with asyncio.timeout(60):
            await Traveller(together).under_way.wait()
        assert not stuck.arrive.is_set()

    asyncio.run(main())


def test_who_gives_up_is_not_waited_for() -> None:
    async def main() -> None:
        together = Convoy()
        first = Traveller(together)
        await turns()
        given_up, other = Traveller(together), Traveller(together)
        await turns()
        given_up.task.cancel()
        first.arrive.set()
        async with asyncio.timeout(60):
            await other.under_way.wait()
            other.arrive.set()
            await other.task
            await Traveller(together).under_way.wait()

    asyncio.run(main())
