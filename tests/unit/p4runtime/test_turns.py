"""Who waits for whom: Writes to different objects do not, a change of everything waits for all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from duet_p4.xdp_switch.p4runtime.turns import PATIENCE, Turns

WISHES = st.lists(
    st.tuples(
        st.none() | st.frozensets(st.integers(0, 3), max_size=3),
        st.booleans(),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=12,
)


@given(WISHES)
def test_no_two_hold_the_same_thing_and_everybody_gets_his_turn(wishes) -> None:
    """Each wish: its objects, whether it lets others pass, for how long, and whether it is given up."""

    async def run() -> None:
        turns = Turns()
        holding: list[Collection[int] | None] = []
        served = []

        async def wish(number: int, objects: Collection[int] | None, lets_pass: bool, steps: int) -> None:
            async with turns.hold(objects, lets_pass=lets_pass):
                for other in holding:
                    assert other is not None
                    assert objects is not None
                    assert not set(other) & set(objects)
                holding.append(objects)
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    holding.remove(objects)
            served.append(number)

        tasks = [
            asyncio.create_task(wish(number, objects, lets_pass, steps))
            for number, (objects, lets_pass, steps, _) in enumerate(wishes)
        ]
        await asyncio.sleep(0)
        given_up = [number for number, (*_, gives_up) in enumerate(wishes) if gives_up]
        for number in given_up:
            tasks[number].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert not [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)]
        assert set(served) | set(given_up) == set(range(len(wishes)))

    asyncio.run(run())


def test_a_write_to_other_objects_waits_for_nobody() -> None:
    async def run() -> None:
        turns = Turns()
        async with turns.hold({1, 2}), asyncio.timeout(1), turns.hold({3}):
            pass

    asyncio.run(run())


def test_a_read_that_waits_lets_writes_pass_but_not_for_ever() -> None:
    async def run() -> None:
        turns = Turns()
        order: list[str] = []

        async def read() -> None:
            async with turns.hold(None, lets_pass=True):
                order.append("read")

        async def write(number: int) -> None:
            async with turns.hold({number % 2}):
                order.append("write")
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        async with turns.hold({7}):
            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            writes = [asyncio.create_task(write(number)) for number in range(2 * PATIENCE)]
            for _ in range(3 * 2 * PATIENCE):
                await asyncio.sleep(0)
            assert order == ["write"] * PATIENCE, "then it is the Read's turn"
        await asyncio.gather(reading, *writes)
        assert order.index("read") == PATIENCE

    asyncio.run(run())
